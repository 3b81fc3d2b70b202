"""`python -m collapselab`, and so `accelerate launch -m collapselab run ...`."""

from collapselab.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())

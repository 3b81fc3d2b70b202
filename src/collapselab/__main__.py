"""`python -m collapselab`, and so `accelerate launch -m collapselab run ...`."""

from collapselab.cli import main

if __name__ == "__main__":
    raise SystemExit(main())

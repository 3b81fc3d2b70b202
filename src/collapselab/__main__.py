"""Entry point of `python -m collapselab` and `accelerate launch -m collapselab run ...`."""

from collapselab.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())

"""collapselab: what happens to a language model that learns from its own output, and what stops it?"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from collapselab.report.notebook import Results

__version__ = "0.1.0"


def load(*runs: str | Path) -> Results:
    """Load the results of one or more runs as pandas frames and plotly figures (docs/notebook.md).

    Args:
        runs: run directories, as in load("runs/demo"); they may still be running.

    Raises UserError if there is no run, no finished generation, or an invalid file.
    """
    from collapselab.report.notebook import load as read  # imports pandas

    return read(*runs)

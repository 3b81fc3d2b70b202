"""collapselab: what happens to a language model that learns from its own output, and what stops it?"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from collapselab.report.notebook import Results

__version__ = "0.1.0"


def load(*runs: str | Path) -> Results:
    """Finished files of a run, or of several to compare, as pandas frames and plotly figures (docs/notebook.md).

    Args:
        runs: run directories, as in load("runs/demo"). A run may still be going on.

    Raises UserError, in one line, where there is no run, no finished generation, or a strange file.
    """
    from collapselab.report.notebook import load as read  # pandas comes with it

    return read(*runs)

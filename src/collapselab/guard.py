"""What a run directory may hold: it may come from a stranger."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from collapselab.config import UserError


def refuse_strange(place: Path, root: Path) -> None:
    """Raises UserError where a run has anything but regular files and folders: a link would lead out of it, a pipe would
    never end. Nothing but names is read, and no link is followed; `wandb/` in a chain holds wandb's own.

    Args:
        place: a chain, looked at with the run's own files, shared/ and report/; or a run directory as a whole.
        root: the run directory; it and what it lies in may be links, which are the user's.
    """
    place = place.absolute()
    _look(root, deep=False)
    if place != root:
        _look(place.parent, deep=False)
        _look(root / "shared")
        _look(root / "report")
    _look(place)


def _look(top: Path, *, deep: bool = True) -> None:
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        if deep and not (entry.name == "wandb" and folder.name.startswith("seed=")):
                            waiting.append(Path(entry.path))
                    elif not entry.is_file(follow_symlinks=False):
                        _refuse(Path(entry.path))
        except (FileNotFoundError, NotADirectoryError):  # nothing there yet, or not any more
            continue
        except OSError as error:
            raise UserError(
                f"{error.filename or folder}: cannot be read ({error.strerror}); make it readable"
            ) from None


def _refuse(path: Path) -> None:
    mode = path.lstat().st_mode
    kind = "a symbolic link" if stat.S_ISLNK(mode) else "a pipe" if stat.S_ISFIFO(mode) else "a device or socket"
    raise UserError(f"{path}: {kind}, where a run has files and folders alone; remove it, or put a copy in its place")

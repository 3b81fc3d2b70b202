"""Validation of untrusted runs and models: malformed content becomes a one-line error naming the file, and links and pipes
are refused."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from collapselab.config import UserError, first_line
from collapselab.config.values import flatten

METRIC = re.compile(
    r"[A-Za-z][A-Za-z0-9_./<>+-]{0,199}"
)  # begins with a letter: spreadsheets take `=...` for a formula
LARGEST = 1e150  # largest number in a chart: its square is still finite; the perplexity of a loss of 345 nats
SIZES = {  # of a network, by all names that transformers has for them
    "vocab_size", "hidden_size", "n_embd", "d_model", "num_hidden_layers", "n_layer", "num_layers", "n_layers",
    "num_attention_heads", "n_head", "n_heads", "num_heads", "num_key_value_heads", "head_dim", "n_positions", "n_ctx",
    "max_position_embeddings", "state_size",
}  # fmt: skip
MOST_PARTS = 1024  # layers or experts: ten times what large models have, and built in seconds
BROKEN = (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RecursionError, MemoryError)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Convert errors raised while parsing the content of `path` into a UserError."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or first_line(error)}); restore it") from None
    except BROKEN as error:
        reason = f"{type(error).__name__}: {first_line(error)}"[:200]
        raise UserError(f"{path}: not written by this lab ({reason}); remove its folder to have it rebuilt") from None


def whole(value: Any, least: int = 0, most: int = 2**53) -> int:
    """Return a whole number within [least, most]; raise ValueError for anything else, booleans included."""
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{str(value)[:40]!r} is not a whole number of {least} or more")
    return value


def number(value: Any) -> float:
    """Return a finite number that charts can show; raise ValueError for anything else."""
    if type(value) not in (int, float) or not -LARGEST <= value <= LARGEST:
        raise ValueError(f"{str(value)[:40]!r} is not a finite number")
    return float(value)


def text(value: Any) -> str:
    """Return a string; raise ValueError for anything else."""
    if not isinstance(value, str):
        raise ValueError(f"{str(value)[:40]!r} is not text")
    return value


def metrics(table: Any) -> dict[str, float]:
    """Return finite numbers by names that are harmless in spreadsheets and paths; raise ValueError for anything else."""
    if not isinstance(table, dict) or not all(METRIC.fullmatch(name) for name in table):
        raise ValueError("metrics have plain names, as in real/loss")
    return {name: number(value) for name, value in table.items()}


def interval(pair: Any) -> tuple[float, float]:
    """Return (low, high), finite and in this order; raise ValueError for anything else."""
    low, high = map(number, pair)
    if low > high:
        raise ValueError("an interval begins below its end")
    return low, high


def drawable(values: dict[str, Any]) -> dict[str, Any]:
    """Keep only the values that charts can show: those of a diverged model may be too large."""
    return {name: value for name, value in values.items() if type(value) in (int, float) and abs(value) <= LARGEST}


def refuse_links(place: Path, root: Path) -> None:
    """Refuse a run that holds links, pipes or devices: a link could lead out of it, reading a pipe could never end.

    Only names are read, and no link is followed; `wandb/` in a chain or a run is skipped. Raises UserError.

    Args:
        place: a chain, checked with the run's own files, shared/ and report/; or a whole run directory.
        root: the run directory; it and its parents may be links.
    """
    place = place.absolute()
    _look(root, deep=False)
    if place != root:
        _look(place.parent, deep=False)
        _look(root / "shared")
        _look(root / "report")
    _look(place, wandb_in=root.absolute())


def _look(top: Path, *, deep: bool = True, wandb_in: Path | None = None) -> None:
    queue = [top]
    while queue:
        folder = queue.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        has_own = folder == wandb_in or folder.name.startswith("seed=")
                        if deep and not (entry.name == "wandb" and has_own):
                            queue.append(Path(entry.path))
                    elif not entry.is_file(follow_symlinks=False):
                        _refuse(Path(entry.path))
        except (FileNotFoundError, NotADirectoryError):  # not made yet, or removed meanwhile
            continue
        except OSError as error:
            raise UserError(
                f"{error.filename or folder}: cannot be read ({error.strerror}); make it readable"
            ) from None


def _refuse(path: Path) -> None:
    mode = path.lstat().st_mode
    kind = "a symbolic link" if stat.S_ISLNK(mode) else "a pipe" if stat.S_ISFIFO(mode) else "a device or socket"
    raise UserError(f"{path}: {kind}, but a run has only files and folders; remove it, or replace it by a copy")


def unsafe_model(folder: Path) -> str:
    """Reason not to load a model folder; empty if it may be loaded: pipes, weights that are not safetensors of this folder,
    attention code from elsewhere, impossible sizes. Only JSON is read."""
    if wrong := special_file(folder) or _unsafe_weights(folder):
        return wrong
    try:
        tree = flatten(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError, RecursionError):
        return ""  # the library reports it
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors") if path.is_file())
    if tree.get("transformers_weights") is not None and wrong_name(folder, tree["transformers_weights"]):
        return f"config.json, transformers_weights: {wrong_name(folder, tree['transformers_weights'])}"
    counted = tree.get("model_type") == "collapselab_bigram"  # a table of counts has neither layers nor width
    sizes = {"vocab_size"} if counted else SIZES
    for key, value in tree.items():
        if key in sizes and type(value) in (int, float) and value < 1:
            return f"config.json, {key}: {value}, and no model has less than 1"
        if key.endswith("_implementation") and "/" in str(value):
            return f"config.json, {key}: code from elsewhere is not run"
        most = MOST_PARTS if re.search(r"(layers?|experts)$", key) else size if key == "entries" else None
        if most is not None and isinstance(value, int) and value > most:
            return f"config.json, {key}: more than {most}"
    return ""


def special_file(folder: Path) -> str:
    """Message about a pipe, device or socket in a folder of a model or tokenizer, which might never end; empty without one.
    Links are followed: the cache of the Hugging Face hub consists of them."""
    try:
        for path in sorted(folder.iterdir()):
            with suppress(FileNotFoundError):  # a dangling link: the library reports it if needed
                mode = path.stat().st_mode
                if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                    return f"{path.name}: a pipe, a device or a socket, which is not read"
    except OSError as error:
        return f"{error.filename or folder}: {error.strerror}"
    return ""


def _unsafe_weights(folder: Path) -> str:
    if (folder / "adapter_config.json").exists():
        return "adapter_config.json: an adapter, not a model; merge it into its base and save that"
    for index in sorted(folder.glob("*.safetensors.index.json")):
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, *BROKEN):  # JSON's own error is a ValueError
            return f"{index.name}: no index of weights"
        for name in sorted(names, key=str):
            if wrong := wrong_name(folder, name):
                return f"{index.name}: {wrong}"
    return ""


def wrong_name(folder: Path, name: Any) -> str:
    """Reason not to read a file of weights by its name; empty for a .safetensors file of the folder itself."""
    shown = repr(name)[:80]
    if not isinstance(name, str) or not name.endswith(".safetensors"):
        return f"names {shown}, and only .safetensors files are read"
    if Path(name).name != name or "\\" in name or "\0" in name:
        return f"names {shown}, and only files of the folder itself are read"
    return "" if (folder / name).is_file() else f"names {shown}, which is not there"

"""Untrusted run directories: one value or file of a finished run changed at random, with manifests that match again."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import load_file, save_file

from collapselab.config import digest
from collapselab.store.folders import sha256_of
from collapselab.store.seals import sealed, sealed_text

MARKS = "\u202e\u2066\u200f\u061c\u2028"
TEXTS = (
    "<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "{{ 7*7 }}{% for x in y %}", "javascript:alert(1)",
    "\x1b[2J\x1b]0;owned\x07\x1b[31m", "\x00\x08\x0d\x7f\x9b2J", f"bidi {MARKS} end", "half \ud800 \udfff", "=1+1|cmd", "@SUM(A1)",
    "[bold red]markup[/] [/nothing]", "../../sentinel/stolen", "/etc/hostname", "~", "", " ", "null", "nan",
    "x" * (1 << 20), "é" * 300, "-1", "1e999", "line\nbreak\r\n", "$(touch stolen)", "%s%n{0}", "__class__",
)  # fmt: skip
NUMBERS = (
    0, -1, 1, 2, 10**9, -(10**9), 2**31, 2**63, -(2**63) - 1, 10**30, 10**400, 0.5, -0.0, 1e308, -1e308, 5e-324,
    float("nan"), float("inf"), float("-inf"), True, None,
)  # fmt: skip


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def value_for(old: Any, draw: random.Random) -> Any:
    kind = draw.randrange(8)
    if kind < 3:
        return draw.choice(NUMBERS)
    if kind < 5:
        return draw.choice(TEXTS)
    if kind == 5:
        return draw.choice([[], {}, [None], [[]], {"a": {}}, [1, "x"], {"": 1}, nested(40), nested(400)])
    if kind == 6 and isinstance(old, dict):
        return {draw.choice(TEXTS): value for value in old.values()} or {draw.choice(TEXTS): 1}
    if isinstance(old, list):
        return old * 3
    return old + draw.choice([-1, 1, 1000]) if isinstance(old, int | float) else [old]


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every value within a tree."""
    for key, value in list(
        tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    ):
        yield tree, key
        yield from places(value)


def change_tree(tree: Any, draw: random.Random) -> Any:
    """A tree with one value changed, taken out or put in. Every depth is as likely as another."""
    at: Any = tree
    found = None
    while isinstance(at, dict | list) and at and (found is None or draw.random() < 0.75):
        key = draw.choice(sorted(at, key=str)) if isinstance(at, dict) else draw.randrange(len(at))
        found, at = (at, key), at[key]
    if found is None or draw.random() < 0.05:
        return value_for(tree, draw)
    holder, key = found
    how = draw.randrange(10)
    if how == 0:
        del holder[key]
    elif how == 1 and isinstance(holder, dict):
        holder[draw.choice(TEXTS)] = holder[key] if draw.random() < 0.5 else value_for(None, draw)
    elif how == 2 and isinstance(holder, dict):
        holder[draw.choice(TEXTS)] = holder.pop(key)
    else:
        holder[key] = value_for(holder[key], draw)
    return tree


def change_text(data: bytes, draw: random.Random) -> bytes:
    """What no writer of JSON or YAML would write."""
    at = draw.randrange(len(data) + 1)
    return draw.choice(
        [
            b"", data[:at], data + data, b"\xff\xfe" + data, b"[" * 100_000, b'{"a":' * 50_000, b"9" * 5000,
            b"NaN", b"null", b'"x"', b"[]", b"{}", b'{"a": 1, "a": 2}',
            data[:at] + b"\x00\x1b[2J" + data[at:], data[:at] + bytes(draw.randrange(256) for _ in range(8)) + data[at + 8 :],
            b'"\\ud800"', b"*a", b"a: &a [*a]", b"!!python/object/apply:os.system ['touch stolen']",
        ]
    )  # fmt: skip


def change_binary(data: bytes, draw: random.Random) -> bytes:
    size = draw.choice([1, 2, 4, 8])
    values = np.frombuffer(data[: len(data) // size * size], f"<u{size}").copy()
    how = draw.randrange(6)
    if how == 0 or not len(values):
        return draw.choice([b"", data[: draw.randrange(len(data) + 1)], data * 2, data + b"\x01", b"\x80\x04." + data])
    worst = [0, 1, 2 ** (8 * size) - 1, 2 ** (8 * size - 1), 2 ** (8 * size - 1) - 1, 255, 257]
    if how == 1:
        values[:] = draw.choice(worst) % 2 ** (8 * size)
    else:
        for _ in range(draw.choice([1, 1, 5, 50])):
            values[draw.randrange(len(values))] = draw.choice(worst) % 2 ** (8 * size)
    return values.tobytes()


def change_weights(path: Path, draw: random.Random) -> None:
    if draw.random() < 0.25:
        data = path.read_bytes()
        head = draw.choice(
            [b"", b"\xff" * 8 + data[8:], (2**40).to_bytes(8, "little") + data[8:], change_binary(data, draw)]
        )
        path.write_bytes(head)
        return
    tensors = load_file(path)
    name = draw.choice(sorted(tensors))
    tensor = tensors[name]
    how = draw.randrange(8)
    if how == 0:
        del tensors[name]
    elif how == 1:
        tensors["<script>\x1b[2J"] = tensor
    elif how == 2:
        tensors[name] = tensor.reshape(-1)
    elif how == 3:
        tensors[name] = np.concatenate([tensor, tensor])
    elif how == 4:
        tensors[name] = tensor.astype(np.int64)
    elif how == 5:
        tensors[name] = np.zeros((0, *tensor.shape[1:]), tensor.dtype)
    else:
        tensor[...] = draw.choice([np.nan, np.inf, -np.inf, 1e38, 0])
    save_file(tensors, path, metadata={"format": "pt"})


def change(path: Path, draw: random.Random) -> None:
    """One change to one file, such as its format allows."""
    data = path.read_bytes()
    if path.suffix == ".safetensors":
        change_weights(path, draw)
    elif path.suffix not in (".json", ".jsonl", ".yaml"):
        path.write_bytes(change_binary(data, draw))
    elif draw.random() < 0.15:
        path.write_bytes(change_text(data, draw))
    elif path.suffix == ".yaml":
        tree = change_tree(yaml.safe_load(data), draw)
        try:
            path.write_text(yaml.safe_dump(tree, sort_keys=False))
        except RecursionError:  # too deep for that writer; JSON is YAML too
            path.write_text(json.dumps(tree))
    elif path.suffix == ".json":
        path.write_text(json.dumps(change_tree(json.loads(data), draw)))
    else:
        rows = change_tree([json.loads(line) for line in data.splitlines()], draw)
        path.write_text("".join(json.dumps(row) + "\n" for row in (rows if isinstance(rows, list) else [rows])))


def reseal(run: Path) -> None:
    """Makes every manifest of a run fit the files that lie there, as whoever changed them would."""
    now: dict[str, str] = {}
    manifests = {}
    for path in sorted(run.rglob("manifest.json")):
        try:
            manifest = json.loads(path.read_text())
            if path.is_symlink() or not isinstance(manifest["files"], dict):
                continue
            files = {n: path.parent / n for n in manifest["files"] if (path.parent / n).is_file()}
            manifest["files"] = {n: {"bytes": f.stat().st_size, "sha256": sha256_of(f)} for n, f in files.items()}
            new = digest({name: entry["sha256"] for name, entry in manifest["files"].items()})
            now[manifest["digest"]], manifest["digest"] = new, new
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # the manifest itself is what was changed
        manifests[path] = manifest
    for path, manifest in manifests.items():
        if isinstance(manifest.get("inputs"), dict):
            manifest["inputs"] = {k: now.get(v, v) if isinstance(v, str) else v for k, v in manifest["inputs"].items()}
        path.write_text(json.dumps(sealed(manifest)))
    _seal_again(run)


def _seal_again(run: Path) -> None:
    """The files that carry a seal of their own, as whoever changed them would seal them."""
    for path in run.rglob("*"):
        if not path.is_file() or path.is_symlink():
            continue
        if path.name in ("identity.json", "environment.json", "batch.json", "timing.json"):
            with suppress(ValueError, RecursionError, AttributeError):
                value = json.loads(path.read_text())
                path.write_text(json.dumps(sealed(value), indent=1, sort_keys=True) + "\n")
            if path.name == "identity.json":
                shutil.copy(path, path.with_name("identity.copy.json"))
        elif path.name in ("config.yaml", "experiment.yaml"):
            with suppress(UnicodeDecodeError):
                text = path.read_bytes().decode()
                path.write_text(sealed_text(text.partition("\n")[2] if text.startswith("# Written") else text))


def files_of(run: Path) -> list[Path]:
    """What a stranger may change, in a fixed order; a report is made anew, and a lock's content says nothing."""
    found = (p.relative_to(run) for p in run.rglob("*") if p.is_file())
    return sorted(
        p for p in found if not {"report", "wandb", "rescored"} & set(p.parts) and p.suffix not in ("", ".log")
    )


def state_of(folder: Path, *, but: Path) -> dict[str, str]:
    """Every path of a folder with what it is and holds, but for those within `but`."""
    found = {}
    for root, names, files in os.walk(folder):
        names[:] = [n for n in names if Path(root, n) != but]
        for name in [*names, *files]:
            path = Path(root, name)
            data = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else "folder"
            found[str(path)] = data if isinstance(data, str) else hashlib.sha256(data).hexdigest()
    return found

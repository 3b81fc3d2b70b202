"""A generation as others use it: its samples as Parquet for `datasets`, its model as a folder for `transformers`, each with
a card (export/cards.py). What is published is read and never touched."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from collapselab.config import RunConfig, UserError
from collapselab.corpus.tokenizers import LARGEST, Tokenizer, load_tokenizer
from collapselab.export.cards import model_card, samples_card
from collapselab.mixing.sets import read_meta
from collapselab.report.files import ChainFiles
from collapselab.runtime.console import Console
from collapselab.runtime.errors import FULL
from collapselab.store import folders
from collapselab.store.checks import reading, unsafe_model
from collapselab.store.folders import beside, put_in_place, write_text
from collapselab.store.layout import run_root

What = Literal["all", "samples", "model"]
GROUP_TOKENS = 1 << 18  # of a row group: what is decoded at a time, some 20 MB as Python's integers
FILE_TOKENS = 1 << 26  # of a Parquet file: some 200 MB
SUFFIXES = (".safetensors", ".json", ".txt", ".jinja", ".model")  # of a model and its tokenizer: data, never code
OURS = ("manifest.json", "log.jsonl")
SCHEMA = pa.schema(
    [
        ("text", pa.string()),
        ("tokens", pa.list_(pa.int32())),
        ("sequence", pa.int64()),
        ("generation", pa.int32()),
        ("arm", pa.string()),
        ("seed", pa.int64()),
        ("prompt_tokens", pa.int32()),
    ]
)


def chosen(chain: ChainFiles, generation: int | None, what: What) -> int:
    """The generation that is meant, the last finished one where none is named. Raises UserError where it is not finished, or
    has no weights any more."""
    last = len(chain.rows) - 1
    found = last if generation is None else generation
    if not 0 <= found <= last:
        raise UserError(f"--generation {found}: {chain.path} has finished generations 0 to {last}; name one of these")
    if what != "samples":
        chain.chain.need_weights([found], f"--generation {found}")
    return found


def place_for(chain: ChainFiles, generation: int) -> Path:
    """Where a generation goes unless a folder is named."""
    return Path("exports") / f"{run_root(chain.path).name}-{chain.arm}-seed{chain.seed}-gen{generation}"


def export(
    chain: ChainFiles, config: RunConfig, generation: int, out: Path, what: What = "all", *, console: Console
) -> None:
    """Writes `out`/samples (Parquet), `out`/model, or both, all at once: it is there when it is whole.

    Args:
        generation: a finished one. out: a folder that is empty or not there.

    Raises UserError where a stage that is read is damaged, `out` holds something, or nothing can be written.
    """
    with reading(out):
        if out.exists() and any(out.iterdir()):
            raise UserError(f"--out {out}: holds files already; name a new folder, or remove it")
    place = out.resolve()  # a link to an empty folder stays one
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with beside(place) as temporary:
            model = folders.intact(chain.chain.stage(generation, "train"))
            if what != "model":
                tokenizer = load_tokenizer(str(model), key=f"--generation {generation}")
                _samples(chain, config, generation, tokenizer, temporary / "samples", console)
            if what != "samples":
                _model(chain, config, generation, model, temporary / "model")
            for path in filter(Path.is_file, temporary.rglob("*")):
                folders.flush(path)  # a folder that is there is whole after a power cut too
            if not put_in_place(temporary, place):
                raise UserError(
                    f"--out {out}: another process has written there meanwhile, which stays; name a new folder"
                )
    except OSError as error:
        mend = "free some" if error.errno in FULL else "mend that, or name another folder"
        raise UserError(f"--out {out}: cannot be written ({error.strerror or error}); {mend}") from None


def _samples(
    chain: ChainFiles, config: RunConfig, generation: int, tokenizer: Tokenizer, out: Path, console: Console
) -> None:
    stage = folders.intact(chain.chain.stage(generation, "samples"))
    meta = read_meta(stage)
    out.mkdir()
    per_file = max(1, FILE_TOKENS // meta["length"])
    files = -(-meta["sequences"] // per_file)
    groups = _row_groups(stage, meta, per_file)
    done = 0
    with console.bar(f"gen {generation} export", meta["tokens"]) as bar:
        for number in range(files):
            end = min(meta["sequences"], (number + 1) * per_file)
            with pq.ParquetWriter(out / f"train-{number:05d}-of-{files:05d}.parquet", SCHEMA) as writer:
                while done < end:
                    rows = next(groups)
                    writer.write_table(_table(chain, generation, tokenizer, rows, done, meta["prompt_length"]))
                    done += len(rows)
                    bar.update(sum(map(len, rows)))
    write_text(out / "README.md", samples_card(chain, config, generation, meta))


def _row_groups(stage: Path, meta: dict[str, Any], per_file: int) -> Iterator[list[list[int]]]:
    """The sequences of a samples folder in order, a row group at a time; a group lies in one file. Raises UserError where one
    holds what is no token, or there are others than meta.json says."""
    length, left = meta["length"], meta["tokens"]
    at_once = max(1, GROUP_TOKENS // length)
    with reading(stage):
        shards = [np.memmap(stage / name, meta["dtype"], "r") for name in meta["shards"]]
        if sum(map(len, shards)) != left or -(-left // length) != meta["sequences"]:
            raise ValueError(f"{sum(map(len, shards))} tokens, meta.json says {left} in {meta['sequences']} sequences")
        ends = np.cumsum([len(shard) for shard in shards])
        for first in range(0, meta["sequences"], per_file):
            for start in range(first, min(first + per_file, meta["sequences"]), at_once):
                stop = min(start + at_once, first + per_file) * length
                flat = _between(shards, ends, start * length, min(stop, left))
                if flat.max() >= min(meta["vocab"], LARGEST):
                    raise ValueError(f"token {flat.max()}, meta.json says {meta['vocab']} entries")
                yield [flat[i : i + length].tolist() for i in range(0, len(flat), length)]


def _between(shards: Sequence[np.ndarray], ends: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Tokens [start, stop) of the stream that the shards make up."""
    parts = []
    for shard, end in zip(shards, ends.tolist(), strict=True):
        begin = end - len(shard)
        if begin < stop and end > start:
            parts.append(shard[max(0, start - begin) : stop - begin])
    return np.concatenate(parts)


def _table(
    chain: ChainFiles, generation: int, tokenizer: Tokenizer, rows: list[list[int]], first: int, prompt: int
) -> pa.Table:
    count = len(rows)
    columns = {
        "text": tokenizer.decode(rows),
        "tokens": rows,
        "sequence": range(first, first + count),
        "generation": [generation] * count,
        "arm": [chain.arm] * count,
        "seed": [chain.seed] * count,
        "prompt_tokens": [min(prompt, len(row)) for row in rows],
    }
    return pa.table({name: pa.array(columns[name], SCHEMA.field(name).type) for name in SCHEMA.names}, SCHEMA)


def _model(chain: ChainFiles, config: RunConfig, generation: int, stage: Path, out: Path) -> None:
    """Copies what `from_pretrained` reads, and the note from which the lab knows its own models."""
    if wrong := unsafe_model(stage):
        raise UserError(f"{stage}: is not exported ({wrong}); check where the run comes from")
    out.mkdir()
    for path in sorted(stage.iterdir()):
        if path.name not in OURS and path.suffix in SUFFIXES:
            shutil.copyfile(path, out / path.name)
    write_text(out / "README.md", model_card(chain, config, generation))

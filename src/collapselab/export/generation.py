"""Export of a generation: samples as Parquet for `datasets`, the model as a folder for `transformers`, each with a card.

Published stages are only read.
"""

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
GROUP_TOKENS = 1 << 18  # per row group, decoded at a time: about 20 MB as Python integers
FILE_TOKENS = 1 << 26  # per Parquet file: about 200 MB
SUFFIXES = (".safetensors", ".json", ".txt", ".jinja", ".model")  # files of a model and its tokenizer: data, never code
OURS = ("manifest.json", "log.jsonl")
SCHEMA = pa.schema({"text": pa.string(), "tokens": pa.list_(pa.int32()), "sequence": pa.int64(), "generation": pa.int32(),
                    "arm": pa.string(), "seed": pa.int64(), "prompt_tokens": pa.int32()})  # fmt: skip


def choose_generation(chain: ChainFiles, generation: int | None, what: What) -> int:
    """Return the generation to export, by default the last finished one.

    Raises UserError if it is not finished, or if its weights are needed and pruned.
    """
    last = len(chain.rows) - 1
    generation = last if generation is None else generation
    if not 0 <= generation <= last:
        raise UserError(
            f"--generation {generation}: {chain.path} has finished generations 0 to {last}; name one of these"
        )
    if what != "samples":
        chain.chain.need_weights([generation], f"--generation {generation}")
    return generation


def default_folder(chain: ChainFiles, generation: int) -> Path:
    """Folder for the export of a generation if --out names none."""
    return Path("exports") / f"{run_root(chain.path).name}-{chain.arm}-seed{chain.seed}-gen{generation}"


def export(
    chain: ChainFiles, config: RunConfig, generation: int, out: Path, what: What = "all", *, console: Console
) -> None:
    """Write `out`/samples (Parquet), `out`/model, or both, atomically.

    Args:
        generation: a finished one. out: an empty or missing folder.

    Raises UserError if a stage is damaged, `out` is not empty, or the disk cannot be written.
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
                folders.flush(path)  # so that the renamed folder is whole after a power cut too
            if not put_in_place(temporary, place):
                raise UserError(
                    f"--out {out}: another process has written there meanwhile (its files are kept); name a new folder"
                )
    except OSError as error:
        remedy = "free some space" if error.errno in FULL else "fix that, or name another folder"
        raise UserError(f"--out {out}: cannot be written ({error.strerror or error}); {remedy}") from None


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
    """Yield the sequences of a samples folder in order, one row group of one file at a time.

    Raises UserError if the tokens are not those that meta.json describes.
    """
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
    """Tokens [start, stop) of the concatenated shards."""
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
    """Copy the files that `from_pretrained` reads, and the note by which the lab recognises its own models."""
    if wrong := unsafe_model(stage):
        raise UserError(f"{stage}: is not exported ({wrong}); check where the run comes from")
    out.mkdir()
    for path in sorted(stage.iterdir()):
        if path.name not in OURS and path.suffix in SUFFIXES:
            shutil.copyfile(path, out / path.name)
    write_text(out / "README.md", model_card(chain, config, generation))

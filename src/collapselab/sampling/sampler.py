"""Sampling of a generation's text: batches of equal length, shards, and a note on degenerate output.

The engine (engine.py) writes for GPT-2 and Llama weights, the plain sampler for other networks; a bigram model's own
distribution is drawn from its counts (models/slices.py). Batches have a fixed number of rows (the last is padded), and on a
CPU each runs on one thread: in float32 on a CPU the text is the same for any number of threads and processes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from subprocess import CalledProcessError
from typing import Any

import numpy as np
import torch

from collapselab.config import RunConfig, UserError
from collapselab.config.identity import identity
from collapselab.mixing.sets import TrainingSet
from collapselab.models.network import LanguageModel
from collapselab.runtime.console import Console
from collapselab.runtime.interrupts import Stopped
from collapselab.runtime.parallel import Processes, out_of_memory
from collapselab.sampling.draw import stream_key, uniforms
from collapselab.sampling.engine import Engine, Watch, engine_flaw
from collapselab.sampling.plain import cache_flaw, plain_writer
from collapselab.sampling.prompts import Prompts
from collapselab.sampling.room import rows_that_fit
from collapselab.sampling.shards import Batches, write_shard
from collapselab.sampling.side_by_side import side_by_side
from collapselab.sampling.weights import Weights
from collapselab.store.folders import write_json
from collapselab.store.layout import batch_of, keep_batch
from collapselab.store.unfinished import Unfinished

CPU_BATCH = 128
COUNTED_BATCH = 4096  # of a bigram model: a step takes the same few microseconds for one row or hundreds
CUDA_BATCH, FIXED_CUDA_BATCH = 4096, 1024  # maximum; with deterministic=true, independent of free memory
MEMORY_SHARE = 0.85  # of free GPU memory for a batch

# write(prompts int64 (rows, P), number of the first sequence) -> new tokens int64 (rows, N)
Write = Callable[[np.ndarray, int], np.ndarray]


class Sampler:
    """Sampler of all generations of a chain: memory, weights and a recorded GPU step are created once. `batch_file` records the
    chosen batch size for a resumed chain."""

    def __init__(self, config: RunConfig, processes: Processes, console: Console, batch_file: Path | None = None):
        self.config, self.processes, self.console, self.batch_file = config, processes, console, batch_file
        self.weights: Weights | None = None
        self.idle: SimpleQueue[Engine] = SimpleQueue()
        self.prompts: dict[tuple[int, str, int], Prompts] = {}  # of the last text that `more` wrote
        self.logged: set[str] = set()  # messages that are logged once
        self.writes = "engine"  # writer of the last batch: engine, plain or counts
        precision = config.sampling.precision
        self.precision = ("bf16" if processes.device.type == "cuda" else "fp32") if precision == "auto" else precision

    # --- batch size -----------------------------------------------------------------------------------------------

    def batch_size(self, model: LanguageModel, length: int, sequences: int) -> int:
        """Return (and record) the sequences per batch: the recorded number, else the configured one, else as many as fit."""
        recorded = batch_of(self.batch_file) if self.batch_file else None
        size = recorded or self.config.sampling.batch_size or self._fitting(model, length, sequences)
        chosen = min(self.processes.all_gather(size))
        if recorded is None:
            self._record(chosen)
        return chosen

    def _record(self, batch: int) -> None:
        if self.batch_file is not None and self.processes.is_main:
            keep_batch(self.batch_file, batch)
        self.processes.barrier()

    def _fitting(self, model: LanguageModel, length: int, sequences: int) -> int:
        device = self.processes.device
        if not self.config.sampling.shapes and model.continuer() is not None:
            return min(sequences, COUNTED_BATCH)
        if device.type != "cuda":
            return CPU_BATCH
        most = FIXED_CUDA_BATCH
        if not self.config.deterministic:
            # The cache stays allocated during training, which needs its peak memory again.
            ours = torch.cuda.memory_reserved(device) - torch.cuda.max_memory_allocated(device)
            free = torch.cuda.mem_get_info(device)[0] + ours - 6 * model.parameters
            read, beams = max(0, self.config.prompt_length - 1), self.config.sampling.beams
            fit = rows_that_fit(int(free * MEMORY_SHARE), model, length, read, self.precision, beams)
            most = max(1, min(CUDA_BATCH, fit))
            most -= most % 64 if most > 64 else 0
        share = sequences if self.config.deterministic else -(-sequences // self.processes.world)
        even = -(-share // -(-share // most))  # batches of one size, the last one nearly full
        return min(most, -(-even // 64) * 64)

    # --- writing --------------------------------------------------------------------------------------------------

    def writer(
        self, model: LanguageModel, generation: int, read: int, new: int, batch: int, stream: str = "sample",
        seen: list[np.ndarray] | None = None, repeats: int = 1,
    ) -> Write:  # fmt: skip
        """Return the function that writes a batch: the engine's or that of counts if possible, else the plain sampler's. Log
        once if the fast engine cannot be used.

        Args:
            read: tokens of each prompt. new: tokens that follow. seen: gets the log-probabilities of each batch that the engine
                writes, float32 (rows, new). repeats: consecutive prompts that are equal, which the engine reads once.
        """
        config, device = self.config.sampling, self.processes.device
        key = stream_key(self.config.seed, generation, stream)
        continues = model.continuer()
        if continues is not None and not config.shapes:
            self.writes, places = "counts", range(read, read + new)
            return lambda prompts, first: continues(
                prompts[:, -1], uniforms(key, range(first, first + len(prompts)), places)
            )
        why = f"beam search ({config.beams} beams)" if config.beams > 1 else engine_flaw(model)
        if why is None:
            return self._engine_writer(model, key, read + new, batch, seen, repeats)
        if continues is None:
            self._log_once("engine", f"sampling: the fast engine does not support {why}; using the plain sampler")
        self.writes = "plain"
        model.net.to(device).eval()
        flaw = cache_flaw(model, read, new, device, reorders=config.beams > 1)  # before processes get their batches
        if flaw is not None:
            name = type(model.net).__name__
            self._log_once(
                flaw, f"sampling: {name} runs without its cache ({flaw}); slower: each step reads the whole text"
            )
        return plain_writer(model, config, key, read, new, self.precision, device)

    def _log_once(self, key: str, message: str) -> None:
        if key not in self.logged:
            self.console.say(message)
            self.logged.add(key)

    def _engine_writer(
        self, model: LanguageModel, key: int, length: int, batch: int, seen: list[np.ndarray] | None, repeats: int
    ) -> Write:
        device, dtype = self.processes.device, torch.bfloat16 if self.precision == "bf16" else torch.float32
        old = self.weights
        if old is None or old.length != length or not old.load(model):
            self.weights = None  # first: memory may not suffice for both
            self.idle = SimpleQueue()
            self.weights = Weights(model, length, device, dtype)
        weights = self.weights
        assert weights is not None

        def write(prompts: np.ndarray, first: int) -> np.ndarray:
            try:
                engine = self.idle.get_nowait()
                if engine.rows != batch:
                    raise Empty
            except Empty:
                engine = Engine(weights, batch, self.config.sampling, kernels=device.type == "cuda")
            try:
                watch = None if seen is None else Watch(engine, prompts.shape[1])
                written: np.ndarray = engine.write(prompts, key, first, watch, repeats).cpu().numpy()
                if seen is not None and watch is not None:
                    seen.append(watch.logp())
            except (RuntimeError, CalledProcessError) as error:  # missing headers show only when the compiler runs
                if not isinstance(error, CalledProcessError) and "C compiler" not in str(error):
                    raise
                raise UserError(
                    "device=cuda: Triton needs a C compiler and Python's headers for its kernels; install gcc and python3-dev"
                ) from None
            self.idle.put(engine)
            return written

        return write

    def release(self) -> None:
        """Free the memory of weights and caches."""
        self.weights, self.idle = None, SimpleQueue()
        torch.cuda.empty_cache()

    def sample(
        self,
        model: LanguageModel,
        generation: int,
        text: TrainingSet | None,
        budget: int,
        *,
        separator: int,
        ends: list[int],
        out: Path,
        unfinished: Unfinished | None = None,
    ) -> None:
        """Write exactly `budget` tokens (prompts included) as token shards and meta.json into `out`.

        A batch that does not fit into GPU memory is halved, and the text restarted: a text has one batch size.

        Args:
            text: source of prompts; None for `bos`.
            separator: the token of a `bos` prompt (stored only if a sequence is a whole document).
            ends: ids that count as end-of-text in the note on degenerate output.
            unfinished: folder of parts to resume from and write to.
        """
        config, processes = self.config, self.processes
        length, head = config.sequence_length, config.prompt_length
        read, sequences = max(1, head), -(-budget // length)
        batch = self.batch_size(model, read + length - head, sequences)
        kept = unfinished or Unfinished(out / "tokens", {})  # a folder of its own has nothing to resume
        if unfinished is None and processes.is_main:
            kept.clear()
        while True:
            # The last batch is padded with whole sequences.
            prompts = Prompts(config, generation).rows(text, 0, -(-sequences // batch) * batch, separator)
            batches = Batches(kept, (batch, length), _dtype(model))
            try:
                if self._write(model, generation, prompts, separator, batches):
                    break
            except Stopped as stopped:
                if unfinished is not None:
                    raise
                kept.clear()
                raise Stopped(stopped.number, f"generation {generation}, sampling, nothing is kept") from None
            batch = self._halved(batch)
        if processes.is_main:
            notes = _Degenerate(ends)
            facts = self._shards(batches, len(prompts) // batch, budget, notes, out) | {"vocab": model.vocab}
            write_json(out / "meta.json", facts | {"degenerate": notes.counts})
            notes.log(self.console, generation, sequences)
            if unfinished is None:
                kept.clear()
        processes.barrier()

    def more(
        self,
        model: LanguageModel,
        generation: int,
        text: TrainingSet | None,
        first: int,
        count: int,
        *,
        separator: int,
        stream: str = "sample",
    ) -> np.ndarray:
        """Write sequences number `first` to `first + count - 1` of a stream of a generation's text, int64 (count, length)."""
        length, head = self.config.sequence_length, self.config.prompt_length
        batch = self.batch_size(model, max(1, head) + length - head, count)
        key = generation, stream, 0 if text is None else len(text)
        if key not in self.prompts:
            self.prompts = {key: Prompts(self.config, generation, stream)}
        while True:
            total = -(-count // batch) * batch  # the last batch is computed in full
            prompts = self.prompts[key].rows(text, first, total, separator)
            mine = list(range(total // batch))[self.processes.rank :: self.processes.world]
            written: dict[int, np.ndarray] = {}
            if self._each(model, generation, prompts, separator, batch, mine, written.__setitem__, first, stream):
                break
            batch = self._halved(batch)
        for part in self.processes.all_gather(written):
            written |= part
        return np.concatenate([written[index] for index in sorted(written)])[:count].astype(np.int64)

    def _halved(self, batch: int) -> int:
        """Halve and record a batch that did not fit into GPU memory. Raises UserError for a single sequence."""
        if batch == 1:
            raise UserError(
                "sampling.batch_size=1: a single sequence does not fit into GPU memory; set a shorter sampling.length, "
                "sampling.precision=bf16, or a smaller model"
            )
        self.release()
        self.console.say(f"out of GPU memory while sampling: batches of {batch // 2} sequences from here on")
        self._record(batch // 2)
        return batch // 2

    def _shards(self, batches: Batches, count: int, budget: int, notes: _Degenerate, out: Path) -> dict[str, Any]:
        """Write `budget` tokens of so many batches as shards; return what meta.json says of them."""
        config, (batch, length) = self.config, batches.shape
        head, sequences = config.prompt_length, -(-budget // length)
        names: list[str] = []
        left, rows_left = budget, sequences
        for rows in batches.shards(count):
            notes.look_at(rows[:rows_left, head:])
            names.append(write_shard(rows[:rows_left], left, len(names), out))
            left, rows_left = left - rows[:rows_left].size, rows_left - len(rows)
        whole, rest = divmod(budget, length)
        prefix, of_chain = "sampling.", identity(config)
        settings = {key.removeprefix(prefix): value for key, value in of_chain.items() if key.startswith(prefix)}
        settings.pop("source")
        return {
            "tokens": budget,
            "generated": whole * (length - head) + max(0, rest - head),
            "sequences": sequences,
            "length": length,
            "prompt_length": head,
            "prompt_from": "separator" if config.sampling.prompt == "bos" else config.sampling.prompt_from,
            "dtype": batches.dtype.str,
            "shards": names,
            "sampling": settings,
            "batch_size": batch,
            "precision": self.precision,
            "sampler": self.writes,
        }

    def _write(
        self, model: LanguageModel, generation: int, prompts: np.ndarray, separator: int, batches: Batches
    ) -> bool:
        """Write the batches that are not kept yet; process 0 ends with all of them. Return False if a process ran out of GPU
        memory."""
        processes, (batch, length) = self.processes, batches.shape
        count, seconds = len(prompts) // batch, self.config.training.checkpoint_seconds
        kept, messages = batches.kept() if processes.is_main else ({}, [])
        for message in messages:
            self.console.say(message)
        done = set(processes.broadcast(list(kept)))
        if done:
            self.console.say(f"generation {generation}: sampling resumes with {len(done)} of {count} batches")
        mine = [index for index in range(count) if index not in done][processes.rank :: processes.world]
        with self.console.bar(f"gen {generation} sample", count * batch * length) as bar:
            bar.update(len(done) * batch * length)

            def take(index: int, rows: np.ndarray) -> None:
                batches.add(index, rows, seconds)
                bar.update(batch * length)

            try:
                fits = self._each(model, generation, prompts, separator, batch, mine, take)
            except Stopped as stopped:
                batches.keep()
                raise Stopped(stopped.number, f"generation {generation}, sampling, finished batches are kept") from None
        for rows_of in processes.all_gather(batches.rows) if fits else []:
            batches.rows |= rows_of
        return fits

    def _each(
        self,
        model: LanguageModel,
        generation: int,
        prompts: np.ndarray,
        separator: int,
        batch: int,
        indices: list[int],
        take: Callable[[int, np.ndarray], None],
        first: int = 0,
        stream: str = "sample",
    ) -> bool:
        """Write the batches `indices`, and pass each to `take`. Return False if a process ran out of GPU memory.

        Args:
            prompts: of all batches, sequences number `first` and up of the stream.
        """
        head, length = prompts.shape[1], self.config.sequence_length
        reads = prompts if head else np.full((len(prompts), 1), separator, np.int64)
        failed = False
        try:
            write = self.writer(model, generation, reads.shape[1], length - head, batch, stream)

            def one(index: int) -> np.ndarray:
                rows = slice(index * batch, (index + 1) * batch)
                return np.concatenate([prompts[rows], write(reads[rows], first + rows.start)], 1).astype(_dtype(model))

            for index, rows in side_by_side(one, indices, self.processes.device):
                take(index, rows)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            failed = True
        return not any(self.processes.all_gather(failed))


def _dtype(model: LanguageModel) -> np.dtype[Any]:
    """Type of the tokens of a text on disk."""
    return np.dtype("<u2" if model.vocab <= 1 << 16 else "<u4")


class _Degenerate:
    """Counts of degenerate sequences (one token repeated, or only end-of-text), which are reported and never hidden."""

    def __init__(self, ends: list[int]):
        self.ends = ends
        self.counts = {"one_token_repeated": 0, "all_end_of_text": 0, "end_of_text_tokens": 0}

    def look_at(self, rows_SN: np.ndarray) -> None:
        same = (rows_SN == rows_SN[:, :1]).all(1)
        end = np.isin(rows_SN, self.ends)
        self.counts["one_token_repeated"] += int((same & ~end.all(1)).sum())
        self.counts["all_end_of_text"] += int(end.all(1).sum())
        self.counts["end_of_text_tokens"] += int(end.sum())

    def log(self, console: Console, generation: int, sequences: int) -> None:
        for name in ("one_token_repeated", "all_end_of_text"):
            if self.counts[name]:
                console.say(
                    f"note: generation {generation}: {self.counts[name]} of {sequences} samples are degenerate ({name})"
                )

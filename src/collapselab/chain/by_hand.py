"""Single stages by hand: sample a published model, score any model folder, re-score a finished run."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from collapselab.chain.making import inputs_of, make
from collapselab.chain.opening import lock_chain, open_corpus
from collapselab.chain.preflight import check_lengths, check_sizes, preflight
from collapselab.chain.session import Session
from collapselab.config import ModelConfig, RunConfig, UserError, digest
from collapselab.corpus.prepared import Corpus, prepare
from collapselab.evaluation.protocol import protocol
from collapselab.evaluation.real_text import held_out, score_real_text
from collapselab.mixing import sets
from collapselab.models import network
from collapselab.runtime.console import Console, inert
from collapselab.runtime.parallel import Processes
from collapselab.sampling import sampler as sampling
from collapselab.store import folders, layout
from collapselab.store.folders import write_json
from collapselab.store.layout import Chain
from collapselab.store.seals import recorded


def sample(
    chain_path: Path, config: RunConfig, generation: int | None, out: str | None, tokens: int | None, show: int
) -> None:
    """Sample from a generation's model with the chain's settings; print the first sequences."""
    processes = Processes(config.device, config.training.precision, config.deterministic)
    chain, corpus = Chain(chain_path), open_corpus(config, processes)
    checked = preflight(config, corpus, chain, verb="sample")
    finished = chain.finished()
    chosen = finished[-1] if generation is None and finished else generation
    if chosen is None or not (chain.stage(chosen, "train") / "manifest.json").is_file():
        raise UserError(f"--generation {generation}: {chain_path} has no such model; finished: {finished}")
    chain.need_weights([chosen], f"--generation {chosen}")
    text_of = chosen if config.sampling.prompt_from == "previous" else 0
    inputs = [(chosen, "train"), (text_of, "mixture"), *((g, chain.text) for g in range(text_of))]
    with processes.main_first():
        for g, name in inputs if processes.is_main else []:
            folders.intact(chain.stage(g, name))
    small = sampling.CPU_BATCH * config.sequence_length
    budget = tokens or (checked.budget if out else small)
    check_sizes(config, len(text := sets.TrainingSet(config, chain, text_of, corpus.train)), budget)
    weights = network.load(str(chain.stage(chosen, "train")), pad=config.model.pad_vocabulary)
    model = network.fitted(weights, corpus.tokenizer)
    path = chain.batch_file
    if config.sampling.batch_size is None and path.is_file():  # reproduces the chain's own text to the bit
        if (batch := layout.batch_of(path)) is None:
            raise UserError(f"{path}: damaged; continue the run to rebuild it, or give --sampling.batch-size")
        config = dataclasses.replace(config, sampling=dataclasses.replace(config.sampling, batch_size=batch))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(processes.broadcast(out or scratch))
        folder.mkdir(parents=True, exist_ok=True)
        sampler = sampling.Sampler(config, processes, _console(config, processes))
        separator, ends = corpus.tokenizer.separator, corpus.tokenizer.ends
        sampler.sample(model, chosen, text, budget, separator=separator, ends=ends, out=folder)
        if processes.is_main:
            flat, length = sets.read_samples(folder), config.sequence_length
            rows = [flat[i * length : (i + 1) * length].tolist() for i in range(min(show, -(-budget // length)))]
            for index, written in enumerate(corpus.tokenizer.decode(rows)):
                print(f"--- {index}\n{inert(written)}")
            if out:
                print(inert(f"{budget:,} tokens in {out}"))
        processes.barrier()


def _console(config: RunConfig, processes: Processes) -> Console:
    console = Console(speaks=processes.is_main, bars=config.progress)
    if processes.unused_gpu:
        console.say(processes.unused_gpu)
    return console


def score(model_name: str, config: RunConfig, out: str | None) -> None:
    """Score a model with its own tokenizer on the run's held-out documents; print the values as JSON."""
    processes = Processes(config.device, config.training.precision, config.deterministic)
    own = network.pretrained_tokenizer(model_name)
    corpus = run_corpus = open_corpus(config, processes)
    if own.digest != run_corpus.tokenizer.digest:
        settings = dataclasses.replace(config.corpus, tokenizer="model")
        with processes.main_first():
            corpus = prepare(settings, data_dir=config.data_dir, model_tokenizer=own, block=config.training.block)
        config = _same_text(config, run_corpus, corpus)
    check_lengths(dataclasses.replace(config, model=ModelConfig(pretrained=model_name)))
    model = network.fitted(network.load(model_name, pad=config.model.pad_vocabulary), own, model_name)
    console = _console(config, processes)
    sums, values = score_real_text(model, corpus, config, processes, console)
    if processes.is_main:
        result = {"model": model_name, "protocol": protocol(config, corpus, None), "sums": sums, "metrics": values}
        print(json.dumps(values, indent=1, sort_keys=True))
        if out:
            Path(out).parent.mkdir(parents=True, exist_ok=True)
            write_json(Path(out), result)


def rescore(config: RunConfig, root: Path) -> tuple[str, list[dict[str, Any]]]:
    """Re-score the finished generations of a chain with this version's metrics and protocol, into `rescored/`.

    Returns the name of the scores (a prefix of their protocol's digest) and their rows. Published stages are only read;
    existing scores of this name are kept. Raises UserError, before anything is written, if a stage is damaged or another
    process runs or scores the chain.
    """
    processes = Processes(config.device, config.training.precision, config.deterministic)
    chain, corpus = Chain(root), open_corpus(config, processes)
    if (record := recorded(root)) is None:
        raise UserError(f"{root}: has no identity.json; restore it, or continue the run")
    if record.facts["corpus"] != corpus.digest:
        raise UserError(f"{root}: the text or tokenizer of {config.corpus.source} changed since the run; restore it")
    checked = preflight(config, corpus, chain, verb="eval")
    if not chain.finished():
        raise UserError(f"{root}: no generation is finished yet; continue the run first")
    chain.need_weights(chain.finished(), "eval")
    shared = protocol(config, corpus, checked.sample_tokens)
    scores = digest(shared | ({"plugins": config.plugins} if config.plugins else {}))[:12]
    with lock_chain(chain, processes):
        session = Session(checked, processes, _console(config, processes), scores)
        stages = [(g, name) for g in chain.finished() for name in chain.stages(g)]
        with processes.main_first():
            for stage in [one for one in stages if layout.GIVES[one[1]] != "scores"] if processes.is_main else []:
                folders.intact(session.place(*stage), inputs_of(session, *stage))
        for stage in [one for one in stages if layout.GIVES[one[1]] == "scores"]:
            make(session, *stage)
        rows = chain.rows(scores) if processes.is_main else []
        if processes.is_main:
            chain.write_metrics(rows, scores)
        return scores, rows


def _same_text(config: RunConfig, run_corpus: Corpus, corpus: Corpus) -> RunConfig:
    """Convert `evaluation.tokens` from the run's tokens to those of another tokenizer that cover the same bytes."""
    if config.evaluation.tokens is None:
        return config
    nbytes = int(held_out(run_corpus, config.evaluation)[1].sum())
    reach = np.cumsum(corpus.split(config.evaluation.split).nbytes[1:], dtype=np.int64)
    tokens = max(2, int(np.searchsorted(reach, nbytes, side="right")))
    return dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, tokens=tokens))

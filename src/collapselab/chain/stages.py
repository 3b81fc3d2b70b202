"""The stages of a generation: what each reads and how it is made (making.py decides when)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collapselab.chain.session import Session
from collapselab.config import UserError
from collapselab.evaluation import generation as evaluation
from collapselab.evaluation.protocol import METRICS_VERSION
from collapselab.judging import curation, judges
from collapselab.learning.log import write_log
from collapselab.mixing import sets
from collapselab.models import network, pretrained
from collapselab.sampling.continuations import write_continuations
from collapselab.store import folders
from collapselab.store.checks import reading
from collapselab.store.layout import Chain, parent_of
from collapselab.store.unfinished import Unfinished


@dataclass(frozen=True)
class Ref:
    """Reference to a stage of one generation, as an input of another stage."""

    generation: int
    stage: str


@dataclass(frozen=True)
class Stage:
    """A step of a generation."""

    reads: Callable[[Session, int], dict[str, Ref | str]]
    """Inputs by their names in the manifest: a Ref stands for the digest of that stage, a str is a digest."""
    make: Callable[[Session, int, Path, Unfinished], None]
    """Write its files into a folder, on all processes; `Unfinished` keeps partial results."""


def _mix(s: Session, g: int, out: Path, _: Unfinished) -> None:
    if s.processes.is_main:
        sets.mix(s.config, s.chain, g, s.corpus.train, s.corpus.digest, out)


def _train(s: Session, g: int, out: Path, unfinished: Unfinished) -> None:
    config, start = s.config.model, s.config.model.start
    model, started_from = s.start(g)
    if g and start == "base":
        facts_0 = s.chain.stage(0, "train") / "collapselab.json"
        record = folders.read_json(facts_0)
        with reading(facts_0):
            first_start = record["started_from"]
        if started_from != first_start:
            raise UserError(
                f"model.pretrained={config.pretrained!r}: not the weights that generation 0 started from; restore them"
            )
    facts: dict[str, Any] = {"steps": 0, "shown": 0, "in_loss": 0, "log": []}
    if g or not s.config.training.skip_first:
        facts, model = s.trainer.train(model, s.training_set(g), g, unfinished), s.trainer.model
    if s.processes.is_main:
        write_log(facts.pop("log"), out / "log.jsonl")
        facts |= {"generation": g, "started_from": started_from}
        base = config.pretrained if start != "scratch" else None
        if base is None or pretrained.has_seen_only(base, s.corpus):
            facts["training_text"] = s.corpus.train_digest  # the only text its weights were trained on
        network.publish(model, s.corpus.tokenizer, out, facts)


def _sample(s: Session, g: int, out: Path, unfinished: Unfinished) -> None:
    text = s.training_set(g if s.config.sampling.prompt_from == "previous" else 0)
    tokenizer, model = s.corpus.tokenizer, s.model(g)
    s.sampler.sample(
        model, g, text, s.budget, separator=tokenizer.separator, ends=tokenizer.ends, out=out, unfinished=unfinished
    )
    if s.processes.is_main:
        write_continuations(model, s.corpus, s.config, s.sampler.precision, s.processes, out)


def _judge(s: Session, g: int, out: Path, unfinished: Unfinished) -> None:
    curation.judge(s, g, out, unfinished)


def _refer(s: Session, g: int, out: Path, _: Unfinished) -> None:
    evaluation.publish_reference(
        s.model(g), s.corpus, s.config, training=s.training_set(0), budget=s.budget,
        out=out, processes=s.processes, console=s.console,
    )  # fmt: skip


def _evaluate(s: Session, g: int, out: Path, _: Unfinished) -> None:
    model = s.model(g)
    evaluation.evaluate(
        model, s.first() if g else model, s.corpus, s.config, g, chain=s.chain, samples=s.place(g, "samples"),
        reference=s.place(g, "reference"), mixture=sets.read_mixture(s.place(g, "mixture")),
        judged=s.place(g, "judged") if s.chain.judged else None, out=out, processes=s.processes, console=s.console,
    )  # fmt: skip


def _set_reads(s: Session, g: int) -> dict[str, Ref | str]:
    before = {"previous_mixture": Ref(g - 1, "mixture"), "samples": Ref(g - 1, s.chain.text)} if g else {}
    return {"corpus": s.corpus.digest, **before}


def _model_reads(s: Session, g: int) -> dict[str, Ref | str]:
    before = {"previous": Ref(g - 1, "train")} if g and s.config.model.start == "previous" else {}
    rewarded = {"first": Ref(0, "train")} if g and s.config.learns_from_rewards else {}
    return {"mixture": Ref(g, "mixture"), **before, **rewarded}


FIRST: dict[str, Ref | str] = {"train_0": Ref(0, "train"), "metrics": str(METRICS_VERSION)}  # inputs of all scores


def _scores_read(s: Session, g: int) -> dict[str, Ref | str]:
    judged: dict[str, Ref | str] = {"judged": Ref(g, "judged")} if s.chain.judged else {}
    return {"train": Ref(g, "train"), "samples": Ref(g, "samples"), **judged, **FIRST}


def _judged_reads(s: Session, g: int) -> dict[str, Ref | str]:
    model = _judging_model(s, g)
    return {"train": Ref(g, "train"), "samples": Ref(g, "samples"), **({"model": model} if model else {})}


def _judging_model(s: Session, g: int) -> str | None:
    """Digest of the model folder that a generation is judged by, if it is none of the chain's own; of an inherited generation
    of a fork as it was recorded, because the fork's own settings judge later ones."""
    origin = s.chain.root / "fork.json"
    if not origin.is_file() or g > (fork := folders.read_json(origin))["at"]:
        return judges.model_digest(s.config)
    parent = Chain(parent_of(s.chain.root, fork))
    manifests = (folders.manifest_of(chain.stage(g, "judged"), check="nothing") for chain in (s.chain, parent))
    inputs: dict[str, str] = next((manifest["inputs"] for manifest in manifests if manifest), {})
    return inputs.get("model")


def _reference_reads(s: Session, g: int) -> dict[str, Ref | str]:
    return {"corpus": s.corpus.digest, "mixture": Ref(0, "mixture"), **FIRST}


STAGES: dict[str, Stage] = {
    "mixture": Stage(_set_reads, _mix),
    "train": Stage(_model_reads, _train),
    "samples": Stage(lambda s, g: {"train": Ref(g, "train")}, _sample),
    "judged": Stage(_judged_reads, _judge),
    "reference": Stage(_reference_reads, _refer),
    "eval": Stage(_scores_read, _evaluate),
}
"""In the order of `store.layout.GIVES`."""

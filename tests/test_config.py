"""The configuration: what cannot work is refused when it is built, and a chain's identity is what it should be."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import re
from collections.abc import Iterable
from functools import reduce
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collapselab.chain import opening
from collapselab.cli import options, reproduce
from collapselab.config import RunConfig, TrainingConfig, UserError, as_dict, digest
from collapselab.config import identity as flagged
from collapselab.config.identity import (
    DEFAULTS,
    FLAGS,
    FORK_MAY_CHANGE,
    HARMLESS,
    deciding,
    drift,
    identity,
    shared_digests,
)
from collapselab.config.keys import from_tree, sections
from collapselab.config.settings import Decides, flags_of, setting
from collapselab.config.values import flatten
from collapselab.evaluation import expected
from collapselab.mixing.regimes import REGIMES
from collapselab.report import controls, protocols

NAN, INF = float("nan"), float("inf")


def build(flat: dict[str, Any]) -> RunConfig:
    """RunConfig from flat keys."""
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *within, name = key.split(".")
        reduce(lambda part, section: part.setdefault(section, {}), within, tree)[name] = value
    return from_tree(RunConfig, tree)


REFUSED: list[tuple[str, Any, dict[str, Any]]] = [
    ("corpus.source", "", {}),
    ("corpus.source", "  ", {}),
    *[("corpus.valid_share", v, {}) for v in (0.0, 1.0, -0.1, NAN)],
    *[("corpus.test_share", v, {}) for v in (0.0, 1.0, 2.0, NAN)],
    ("corpus.test_share", 0.6, {"corpus.valid_share": 0.4}),
    ("corpus.vocab_size", 256, {}),
    *[(f"model.{k}", 0, {}) for k in ("layers", "width", "heads", "pad_vocabulary")],
    *[(f"model.{k}", 0, {}) for k in ("kv_heads", "mlp_width", "context")],
    ("model.width", 130, {}),
    ("model.kv_heads", 2, {}),
    ("model.kv_heads", 3, {"model.family": "llama"}),
    ("model.width", 12, {"model.family": "llama"}),
    ("model.dropout", 0.1, {"model.family": "llama"}),
    *[("model.dropout", v, {}) for v in (1.0, -0.1, NAN)],
    ("training.block", 1, {}),
    ("training.batch_size", 0, {}),
    ("training.accumulation", 0, {}),
    ("training.accumulation", 33, {}),
    ("training.epochs", 0, {}),
    ("training.tokens", 127, {}),
    ("training.tokens", 1000, {"training.epochs": 1}),
    *[("training.lr", v, {}) for v in (0.0, -1.0, INF, NAN)],
    *[("training.min_lr_ratio", v, {}) for v in (-0.1, 1.1, NAN)],
    ("training.warmup_steps", -1, {}),
    *[("training.weight_decay", v, {}) for v in (-0.1, INF, NAN)],
    *[("training.clip", v, {}) for v in (-1.0, INF, NAN)],
    *[(f"training.{k}", v, {}) for k in ("beta1", "beta2") for v in (1.0, -0.1, NAN)],
    *[("training.eps", v, {}) for v in (0.0, 1.0, NAN)],
    *[("training.loss_on_last", v, {}) for v in (0, 128)],
    *[("training.loss_below", v, {}) for v in (0.0, -0.5, 1.1, NAN)],
    ("training.loss_below", 0.99, {"model.family": "bigram"}),
    ("mixing.tokens", 0, {}),
    ("mixing.tokens", 127, {}),
    *[(f"mixing.{k}", v, {}) for k in ("start", "ratio", "end", "floor") for v in (-0.1, 1.1, NAN)],
    *[("mixing.power", v, {}) for v in (-1.0, INF, NAN)],
    ("mixing.values", [0.5, 1.5], {"mixing.schedule": "list", "generations": 2}),
    ("mixing.values", [0.5, NAN], {"mixing.schedule": "list", "generations": 2}),
    ("mixing.values", [0.5], {"mixing.schedule": "list", "generations": 2}),
    ("mixing.values", [], {"mixing.schedule": "list"}),
    ("mixing.values", [0.5] * 5, {}),
    ("mixing.values", [0.5] * 5, {"mixing.schedule": "linear"}),
    *[
        ("mixing.schedule", s, {"mixing.regime": r})
        for r in ("accumulate", "accumulate_subsample", "balanced", "incremental", "expanding")
        for s in ("constant", "geometric", "linear", "cosine", "harmonic", "power")
    ],
    *[("mixing.replaced", v, {"mixing.regime": "incremental"}) for v in (0.0, 1.1, NAN)],
    ("mixing.replaced", 0.5, {}),
    *[("mixing.added", v, {"mixing.regime": "expanding"}) for v in (0.0, 1.1, NAN)],
    ("mixing.added", 0.5, {"mixing.regime": "accumulate"}),
    ("sampling.tokens", 1, {}),
    ("sampling.length", 1, {}),
    ("sampling.prompt_tokens", 0, {}),
    ("sampling.prompt_tokens", 128, {"sampling.prompt": "real_prefix"}),
    (
        "sampling.prompt_tokens",
        65,
        {"sampling.prompt": "real_prefix", "training.block": 64, "model.context": 66, "sampling.length": 66},
    ),
    ("sampling.batch_size", 0, {}),
    *[("sampling.temperature", v, {}) for v in (0.0, -1.0, INF, NAN)],
    ("sampling.top_k", -1, {}),
    *[("sampling.top_p", v, {}) for v in (0.0, 1.1, NAN)],
    *[("sampling.min_p", v, {}) for v in (-0.1, 1.0, NAN)],
    *[("sampling.repetition_penalty", v, {}) for v in (0.0, INF, NAN)],
    ("sampling.length", 64, {"mixing.unit": "documents", "sampling.prompt": "bos"}),
    ("sampling.length", 129, {}),
    ("evaluation.context", 1, {}),
    ("evaluation.context", 2, {}),
    ("evaluation.context", 129, {}),
    ("evaluation.tokens", 1, {}),
    ("evaluation.stride", 0, {}),
    ("evaluation.stride", 129, {}),
    ("evaluation.sample_tokens", 0, {}),
    ("evaluation.reference_tokens", -1, {}),
    ("evaluation.self_bleu_samples", -1, {}),
    ("evaluation.self_bleu_samples", 1, {}),
    ("evaluation.embeddings", 19, {}),
    ("training.block", 128, {"model.context": 64}),
    *[("name", v, {}) for v in ("..", "a..b", "../a", "a/b", "", ".hidden", "-x", "a b", "a\n", "é", "x" * 101)],
    *[("training.checkpoint_seconds", v, {}) for v in (0.0, -1.0, INF, NAN)],
    ("training.checkpoint_steps", 0, {}),
    *[("seed", v, {}) for v in (-1, 2**63)],
    ("generations", -1, {}),
]


@pytest.mark.parametrize(("key", "value", "others"), REFUSED, ids=lambda v: repr(v)[:40])
def test_a_value_that_cannot_work_is_refused_by_key_and_value(key: str, value: Any, others: dict[str, Any]) -> None:
    with pytest.raises(UserError) as caught:
        build({**others, key: value})
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"{key}={value!r}: ")
    assert len(text) > len(f"{key}={value!r}: ") + 5  # and a remedy


def test_the_refused_values_are_refused_for_themselves() -> None:
    """The settings beside a refused value are fine without it: the table above tests what it says."""
    for key, _, others in REFUSED:
        if key not in ("mixing.values", "training.block", "model.width") and "mixing.schedule" not in others:
            build(others)


@pytest.mark.parametrize(
    "flat",
    [
        {"corpus.valid_share": 1e-9, "corpus.test_share": 0.99},
        {"mixing.start": 0.0, "mixing.end": 1.0, "mixing.ratio": 1.0, "mixing.floor": 1.0},
        {"mixing.tokens": 128, "training.tokens": 128},
        {"mixing.tokens": None, "generations": 0},
        {"training.block": 2, "training.loss_on_last": 1, "evaluation.context": 3, "model.context": 4},
        {"sampling.prompt": "real_prefix", "sampling.prompt_tokens": 127},
        {"sampling.length": 256, "model.context": 256},
        {"sampling.top_p": 1.0, "sampling.min_p": 0.0, "sampling.top_k": 10**9},
        {"evaluation.stride": 128},
        {"training.loss_below": 1.0},
        {"training.loss_below": 1e-300},
        {"model.family": "llama", "model.kv_heads": 2, "training.clip": 0.0, "training.beta1": 0.0},
        {"model.pretrained": "somewhere", "sampling.length": 4096},
        {"name": "a" * 100, "seed": 2**63 - 1},
        {"mixing.regime": "accumulate"},
        {"mixing.schedule": "list", "mixing.values": [1.0, 0.0], "generations": 2},
    ],
    ids=str,
)
def test_the_ends_of_the_ranges_are_accepted(flat: dict[str, Any]) -> None:
    built = flatten(as_dict(build(flat)))
    assert {key: built[key] for key in flat} == flat


def test_settings_are_frozen_and_keyword_only() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().seed = 2  # type: ignore[misc]
    with pytest.raises(TypeError):
        RunConfig("name")  # type: ignore[misc]


def test_every_key_has_a_docstring() -> None:
    for owner in (RunConfig, *sections().values()):
        source = inspect.getsource(owner)
        for field in dataclasses.fields(owner):
            assert re.search(rf"^    {field.name}: (Literal\[\n.*\n    \].*|.*)\n    \"\"\"\S", source, re.M), (
                f"{owner.__name__}.{field.name}"
            )


@pytest.mark.parametrize(
    "harmless",
    [
        {"name": "b"},
        {"runs_dir": "x"},
        {"data_dir": "d"},
        {"progress": False},
        {"tracking.wandb": "offline"},
        {"retain": "ends"},
        {"training.checkpoint_steps": 7, "training.checkpoint_seconds": None},
    ],
    ids=str,
)
def test_where_and_how_a_run_is_watched_is_no_part_of_it(harmless: dict[str, Any]) -> None:
    assert identity(build(harmless)) == identity(RunConfig())


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_schedule_with_a_horizon_makes_generations_part_of_the_identity(schedule: str) -> None:
    short, long = (identity(build({"mixing.schedule": schedule, "generations": g})) for g in (3, 4))
    assert drift(short, long) == {"generations": (3, 4)}


@pytest.mark.parametrize("schedule", [None, "constant", "geometric", "harmonic", "power"])
def test_other_chains_may_grow(schedule: str | None) -> None:
    short, long = (identity(build({"mixing.schedule": schedule, "generations": g})) for g in (3, 30))
    assert drift(short, long) == {}


def test_a_key_that_an_identity_lacks_has_todays_default() -> None:
    now = identity(RunConfig())
    lacks = {key: value for key, value in now.items() if key != "evaluation.self_bleu_samples"}
    assert drift(lacks, now) == {}
    other = identity(build({"evaluation.self_bleu_samples": 7}))
    assert drift(lacks, other) == {"evaluation.self_bleu_samples": (200, 7)}


def test_truncated_cross_entropy_is_another_model() -> None:
    now, truncated = identity(build({})), identity(build({"training.loss_below": 0.99}))
    assert drift(now, truncated) == {"training.loss_below": (None, 0.99)}
    assert "training.loss_below" in FORK_MAY_CHANGE
    shared = [shared_digests(mine, "text") for mine in (now, truncated)]
    assert not set(shared[0].values()) & set(shared[1].values())


def test_a_list_of_shares_may_grow_at_its_end_only() -> None:
    def of(*values: float) -> dict[str, Any]:
        return identity(
            build({"mixing.schedule": "list", "mixing.values": list(values), "generations": min(2, len(values))})
        )

    assert drift(of(0.5, 0.25), of(0.5, 0.25, 0.1)) == {}
    assert drift(of(0.5, 0.25, 0.1), of(0.5, 0.25)) == {"mixing.values": ([0.5, 0.25, 0.1], [0.5, 0.25])}
    assert drift(of(0.5, 0.25), of(0.25, 0.5, 0.1)) == {"mixing.values": ([0.5, 0.25], [0.25, 0.5, 0.1])}


def test_drift_names_every_key_that_differs_with_both_values() -> None:
    new = build({"training.lr": 0.5, "corpus.column": "x", "seed": 7, "name": "other"})
    assert drift(identity(RunConfig()), identity(new)) == {
        "corpus.column": ("text", "x"),
        "seed": (1, 7),
        "training.lr": (1e-3, 0.5),
    }


def test_every_setting_that_is_not_harmless_enters_the_identity() -> None:
    keys = set(identity(RunConfig()))
    every = set(flatten(as_dict(RunConfig())))
    later = {key for key, flags in FLAGS.items() if flags["since"]}  # at their defaults, as in a chain that lacks them
    assert every - keys - later == {
        *("name", "arm", "runs_dir", "data_dir", "progress", "retain", "generations"),
        *("tracking.wandb", "tracking.project", "training.checkpoint_seconds", "training.checkpoint_steps"),
        "corpus.shared_passages",  # by the digest of the text
    }
    assert not later & keys
    other = identity(build({"corpus.source": "addition", "corpus.addition.digits": 3}))
    assert other == identity(RunConfig()) | {"corpus.source": "addition", "corpus.addition.digits": 3}


def test_digest_does_not_depend_on_the_order_of_keys() -> None:
    flat = identity(RunConfig())
    assert digest(flat) == digest(dict(reversed(flat.items())))
    assert digest(flat) != digest({**flat, "seed": 2})
    canonical = rb'{"a":1,"b":[true,null,"\u00e9"]}'
    assert digest({"b": [True, None, "é"], "a": 1}) == hashlib.sha256(canonical).hexdigest()


FLOATS = st.floats() | st.floats(0, 1)
COUNTS = st.integers(-3, 300) | st.sampled_from([64, 128, 256]) | st.integers()
KEYS: dict[str, st.SearchStrategy[Any]] = {
    "name": st.text(max_size=12) | st.just("ok"),
    "seed": st.integers(),
    "generations": st.integers(-2, 6),
    "corpus.source": st.text(max_size=8),
    "corpus.valid_share": FLOATS,
    "corpus.test_share": FLOATS,
    "corpus.vocab_size": COUNTS,
    "model.pretrained": st.none() | st.text(max_size=3),
    "model.family": st.sampled_from(["gpt2", "llama"]),
    "model.width": COUNTS,
    "model.heads": COUNTS,
    "model.kv_heads": st.none() | COUNTS,
    "model.context": st.none() | COUNTS,
    "model.dropout": FLOATS,
    "training.block": COUNTS,
    "training.batch_size": COUNTS,
    "training.accumulation": COUNTS,
    "training.epochs": st.none() | COUNTS,
    "training.tokens": st.none() | COUNTS,
    "training.lr": FLOATS,
    "training.loss_on_last": st.none() | COUNTS,
    "training.loss_below": st.none() | FLOATS,
    "mixing.tokens": st.none() | COUNTS,
    "mixing.regime": st.sampled_from(list(REGIMES)),
    "mixing.schedule": st.sampled_from([None, "constant", "linear", "cosine", "power", "list"]),
    "mixing.values": st.lists(FLOATS, max_size=6),
    "mixing.floor": FLOATS,
    "mixing.power": FLOATS,
    "mixing.unit": st.sampled_from(["tokens", "documents"]),
    "sampling.length": st.none() | COUNTS,
    "sampling.prompt": st.sampled_from(["bos", "first_token", "real_prefix"]),
    "sampling.prompt_tokens": COUNTS,
    "sampling.temperature": FLOATS,
    "sampling.top_p": FLOATS,
    "evaluation.context": st.none() | COUNTS,
    "evaluation.stride": st.none() | COUNTS,
}


@settings(max_examples=150, deadline=None, database=None)
@given(st.fixed_dictionaries({}, optional=KEYS))
def test_any_values_build_or_are_refused_as_the_users_mistake(flat: dict[str, Any]) -> None:
    try:
        config = build(flat)
    except UserError as error:
        assert any(f"{key}=" in str(error) for key in flatten(as_dict(RunConfig())))
        return
    again = build(flatten(as_dict(config)))
    assert digest(identity(again)) == digest(identity(config))
    assert drift(identity(config), identity(again)) == {}
    assert config.prompt_length <= config.sequence_length


@settings(max_examples=60, deadline=None, database=None)
@given(st.sampled_from(sorted(KEYS)), st.data())
def test_a_single_value_builds_or_is_refused_by_its_own_name(key: str, data: st.DataObject) -> None:
    value = data.draw(KEYS[key])
    try:
        assert flatten(as_dict(build({key: value})))[key] == value
    except UserError as error:
        assert key.split(".")[0] in str(error) and "\n" not in str(error)


def test_which_forks_take_the_recorded_batch_along() -> None:
    from collapselab.chain.opening import inherits_batch

    base = identity(build({}))
    assert inherits_batch(base, base | {"sampling.temperature": 0.5})
    for key, value in {
        "device": "cuda", "deterministic": True, "sampling.precision": "bf16", "sampling.beams": 5, "sampling.batch_size": 7,
    }.items():  # fmt: skip
        assert not inherits_batch(base, base | {key: value}), key


# --- flags of keys ------------------------------------------------------------------------------------------------------

# The lists that stood in the code, each beside what read it, before a key said itself what it decides.
WAS_HARMLESS = {
    *("name", "arm", "runs_dir", "data_dir", "progress", "retain", "generations", "tracking.wandb", "tracking.project"),
    *("training.checkpoint_seconds", "training.checkpoint_steps", "corpus.shared_passages"),
}
FORKS_MIGHT_CHANGE = [
    *(f"mixing.{k}" for k in ("regime", "schedule", "start", "ratio", "end", "power", "values", "floor", "real")),
    *("mixing.replaced", "mixing.added", "sampling.source"),
    *(f"sampling.{k}" for k in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "prompt_from")),
    *(f"sampling.{k}" for k in ("beams", "batch_size", "precision")),
    *(f"training.{k}" for k in ("batch_size", "accumulation", "epochs", "tokens", "lr", "schedule", "min_lr_ratio")),
    *(f"training.{k}" for k in ("warmup_steps", "weight_decay", "beta1", "beta2", "eps", "clip", "loss_on_last")),
    *(f"training.{k}" for k in ("loss_below", "precision", "compile", "attention", "gradient_checkpointing")),
    *("model.start", "model.dropout", "device", "deterministic", "generations"),
]
LAWS_DID_READ = [
    *(f"sampling.{k}" for k in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "beams")),
    *(f"training.{k}" for k in ("tokens", "loss_on_last", "loss_below")),
]
WAS_ELSEWHERE = {"runs_dir", "data_dir", "progress", "tracking.wandb", "tracking.project"}
WAS_NO_REASON = {"name", "arm", "seed", "retain", *WAS_ELSEWHERE}
WAS_IGNORED = {*WAS_NO_REASON, *WAS_HARMLESS, *(f"sampling.{key}" for key in ("source", "precision", "batch_size"))}


def digests_before(mine: dict[str, Any], corpus: str) -> dict[str, str]:
    """`shared_digests` as it was, by sections with exceptions."""
    of_model = {k: v for k, v in mine.items() if k.split(".")[0] in ("corpus", "model", "training")}
    of_model |= {k: mine[k] for k in ("mixing.tokens", "mixing.unit", "device", "deterministic")} | {"text": corpus}
    if mine["model.start"] != "scratch" or mine["model.pretrained"] is None:
        of_model["model.start"] = "base"
    of_text = of_model | {k: v for k, v in mine.items() if k.startswith("sampling.") and k != "sampling.source"}
    of_scores = of_text | {k: v for k, v in mine.items() if k.startswith("evaluation.")}
    model, text, scores = (digest(part)[:32] for part in (of_model, of_text, of_scores))
    return {"set": model, "model": model, "text": text, "scores": scores}


def test_flags_give_the_lists_that_they_replaced() -> None:
    def of_then(keys: Iterable[str]) -> list[str]:
        return [key for key in keys if FLAGS[key]["since"] is None]

    assert set(of_then(HARMLESS)) == WAS_HARMLESS
    might = {*FORKS_MIGHT_CHANGE, "plugins"}
    assert set(of_then(FORK_MAY_CHANGE)) == might and len(of_then(FORK_MAY_CHANGE)) == len(might)
    assert [*FORKS_MIGHT_CHANGE, "plugins"] == of_then(opening.LISTED)  # in this order in identity.json
    assert of_then(expected.LAWS_READ) == LAWS_DID_READ
    assert set(of_then(deciding("nothing"))) == WAS_ELSEWHERE
    for now, before in ((protocols.NO_REASON, WAS_NO_REASON), (controls.IGNORED, WAS_IGNORED)):
        assert {key for key in now if key not in FLAGS or FLAGS[key]["since"] is None} == before


@pytest.mark.parametrize("start", ["base", "previous", "scratch"])
@pytest.mark.parametrize("pretrained", [None, "somewhere"])
def test_flags_give_the_shared_digests_that_sections_gave(start: str, pretrained: str | None) -> None:
    mine = identity(build({"model.start": start, "model.pretrained": pretrained, "mixing.schedule": "linear"}))
    for changed in [{}, *({key: "another"} for key in mine if not key.startswith("model.start"))]:
        assert shared_digests(mine | changed, "text") == digests_before(mine | changed, "text"), changed
    assert shared_digests(mine, "another") == digests_before(mine, "another")


def test_reproduce_passes_on_its_options_that_are_keys_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[list[str]] = []

    def read(line: list[str]) -> Any:
        lines.append(line)
        raise UserError("read")

    monkeypatch.setattr(reproduce, "read_experiment", read)
    papers = Path(__file__).parents[1] / "configs" / "papers"
    for more in ([], ["--data-dir=d", "--device=cpu"]):
        with pytest.raises(UserError, match="read"):
            reproduce.main(["shabgahi", f"--papers={papers}", "--runs-dir=r", *more])
    head = ["--config", str(papers / "shabgahi.yaml")]
    assert lines == [
        [*head, "--runs_dir=r", "--device=auto"],
        [*head, "--data_dir=d", "--runs_dir=r", "--device=cpu"],
    ]


def test_every_key_says_what_it_decides() -> None:
    assert [key for key in FLAGS if key != "plugins"] == list(flatten(as_dict(RunConfig())))
    assert {flags["decides"] for flags in FLAGS.values()} == set(get_args(Decides))
    later = [key for key, flags in FLAGS.items() if flags["since"]]  # than tests/frozen
    sections = {
        "corpus.addition",
        "corpus.facts",
        "corpus.gym",
        "corpus.logic",
        "corpus.modular",
        "corpus.nim",
        "corpus.tic_tac_toe",
        "judging",
        "policy",
        "sampling",
        "training",
    }
    assert {key.rpartition(".")[0] for key in later} == sections


@pytest.mark.parametrize(
    ("keys", "among"),
    [
        ((*expected.LAWS_READ, *expected.LAWS_READ_OF_MIXING), FORK_MAY_CHANGE),
        (opening.BATCH_DEPENDS_ON, FORK_MAY_CHANGE),
        (flagged.SAMPLING_RULE, deciding("samples")),
        (controls.IGNORED, FLAGS),
        (protocols.NO_REASON, FLAGS),
        (protocols.NAMED.values(), FLAGS),
        ([key for key in options.PATHS if "." in key], FLAGS),
    ],
    ids=["laws", "batch", "writing", "controls", "reasons", "named", "paths"],
)
def test_keys_that_are_listed_elsewhere_exist(keys: Any, among: Any) -> None:
    assert set(keys) <= set(among)
    assert all(any(key.startswith(head) for key in FORK_MAY_CHANGE) for head in opening.ORDER)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judging:
    share: float = 0.0
    judges: list[str] = setting(list, decides="later sets", fork=True, since="0.2")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LaterTraining(TrainingConfig):
    extra: int | None = setting(None, decides="model", since="0.2")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LaterRun(RunConfig):
    """The settings of a later version: a key and a section more."""

    training: TrainingConfig = setting(LaterTraining, decides="model", fork=True)
    reviewing: Judging = setting(Judging, decides="samples", since="0.3")


def test_a_key_of_a_later_version_leaves_chains_of_this_one_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    before = identity(RunConfig())
    digests = shared_digests(before, "text")
    monkeypatch.setattr(flagged, "FLAGS", flags_of(LaterRun))
    monkeypatch.setattr(flagged, "DEFAULTS", flatten(as_dict(LaterRun())))
    assert flagged.FLAGS["reviewing.share"] == {"decides": "samples", "fork": False, "since": "0.3"}  # of its section
    assert flagged.FLAGS["reviewing.judges"] == {"decides": "later sets", "fork": True, "since": "0.2"}
    assert flagged.FLAGS["training.lr"] == FLAGS["training.lr"] and flagged.DEFAULTS["reviewing.judges"] == []
    now = identity(LaterRun())
    assert now == before
    told = identity(LaterRun(reviewing=Judging(share=0.5)))
    assert told == before | {"reviewing.share": 0.5} and drift(told, before) == {"reviewing.share": (0.5, 0.0)}
    assert shared_digests(now, "text") == shared_digests(before, "text") == digests
    for key, value, same in [
        ("training.extra", 1, set()),
        ("reviewing.share", 0.5, {"set", "model"}),
        ("reviewing.judges", ["one"], set(digests)),
    ]:
        other = now | {key: value}
        assert drift(before, other) == {key: (DEFAULTS.get(key, flagged.DEFAULTS[key]), value)}
        found = shared_digests(other, "text")
        assert {name for name in digests if found[name] == digests[name]} == same
    monkeypatch.setattr(flagged, "FLAGS", {key: dict(flags, since=None) for key, flags in flagged.FLAGS.items()})
    always = identity(LaterRun())
    assert always.items() >= {"training.extra": None, "reviewing.share": 0.0, "corpus.addition.digits": 2}.items()
    assert shared_digests(always, "text")["model"] != digests["model"]  # a key without `since` is part of all digests

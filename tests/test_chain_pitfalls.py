"""Faults found in other people's code for the same experiments, one test each: the correct behaviour, and proof that the
check detects the fault. Each check runs on the files of a real chain, and again on a chain that commits exactly that fault."""

from __future__ import annotations

import json
import re
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import STAGES, one_process, quiet, samples_of, small_config, wandb_files, wandb_rows
from matplotlib.axes import Axes

from collapselab import seeds
from collapselab.chain import making, opening
from collapselab.chain import run as chain_module
from collapselab.chain.run import run
from collapselab.chain.session import Session
from collapselab.config import RunConfig
from collapselab.evaluation import samples as sample_scores
from collapselab.evaluation.reference import Reference
from collapselab.evaluation.rows import decoded, generated_places, rows_at
from collapselab.learning import trainer
from collapselab.metrics.self_bleu import self_bleu_sums
from collapselab.metrics.tails import first_words, words
from collapselab.mixing import sets
from collapselab.models import network as modeling
from collapselab.report import figures, files, page, pages, protocols, series, spec
from collapselab.reproduce import figure as gallery
from collapselab.sampling import plain
from collapselab.sampling import sampler as sampling
from collapselab.sampling.prompts import Prompts
from collapselab.store import folders, unfinished
from collapselab.store.layout import Chain, read_metrics
from collapselab.tracking import Tracker

HEAD, BLOCK = 8, 32  # tokens of a prompt and of a sequence
Made = tuple[RunConfig, Path]


def tiny(folder: Path, **changes: Any) -> RunConfig:
    """A chain of a third of a second per generation, whose prompts are heads of real text."""
    small = {
        "model__layers": 1, "model__width": 16, "mixing__tokens": 1280, "evaluation__tokens": 512,
        "evaluation__sample_tokens": 480, "sampling__prompt": "real_prefix",
        "sampling__prompt_tokens": HEAD,
    }  # fmt: skip
    return small_config(runs_dir=str(folder), **(small | changes))


@pytest.fixture(scope="module", autouse=True)
def one_thread_and_one_corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """So that the same weights come out bit by bit, a clock of this process sees all that is computed, and the digests of
    the text, which is the same for all chains here, are compared once and not at each of thirty starts."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    corpus = opening.open_corpus(tiny(tmp_path_factory.mktemp("none")), one_process())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chain_module, "open_corpus", lambda config, processes: corpus)
        patch.setattr(opening, "open_corpus", lambda config, processes: corpus)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A finished chain of generations 0 to 2 (do not change it: copy it)."""
    config = tiny(tmp_path_factory.mktemp("runs"))
    return config, run(config)[0]


@pytest.fixture
def copied(finished: Made, tmp_path: Path) -> Made:
    config, path = finished
    shutil.copytree(path.parents[1], tmp_path / config.name)
    return replace(config, runs_dir=str(tmp_path)), tmp_path / path.relative_to(config.runs_dir)


def again(made: Made, *stages: str) -> Path:
    """Has stages made once more, and whatever was made from them."""
    config, path = made
    for stage in stages:
        shutil.rmtree(path / stage)
    return run(config)[0]


# --- beam search configured but greedy run -----------------------------------------------------------------------------


def is_beam_search(path: Path, beams: int) -> None:
    """The text is what transformers' own beam search writes, and more likely than the greedy text."""
    from transformers import AutoModelForCausalLM

    net = AutoModelForCausalLM.from_pretrained(path / "gen_000" / "train")
    rows = torch.from_numpy(samples_of(path / "gen_000" / "samples").astype(np.int64)).view(-1, BLOCK)

    def written(width: int) -> torch.Tensor:
        new = BLOCK - HEAD
        options = {"max_new_tokens": new, "min_new_tokens": new, "eos_token_id": None, "pad_token_id": 0}
        found: torch.Tensor = net.generate(rows[:, :HEAD], num_beams=width, do_sample=False, **options)
        return found

    def log_probability(text: torch.Tensor) -> float:
        with torch.inference_mode():
            scores = net(text[:, :-1]).logits.log_softmax(-1).gather(-1, text[:, 1:, None])
        return float(scores[:, HEAD - 1 :].double().sum())

    assert log_probability(rows) > log_probability(written(1)) + 1
    assert (rows == written(beams)).all(1).float().mean() > 0.9  # a tie may fall either way


def test_configured_beams_are_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In depth, and for both families: test_engine.py::test_beam_search_is_that_of_transformers."""
    start = modeling.start_weights

    def decided(*settings: Any, **more: Any) -> modeling.LanguageModel:
        """Weights so large that the most likely text is not one token over and over, which greedy would find too."""
        model = start(*settings, **more)
        with torch.no_grad():
            for weight in model.net.parameters():
                weight *= 12 if weight.ndim > 1 else 1
        return model

    monkeypatch.setattr(modeling, "start_weights", decided)
    config = tiny(tmp_path, generations=0, sampling__beams=3, training__lr=1e-6)
    path, _ = run(config)
    is_beam_search(path, 3)
    search = plain.beam_batch
    monkeypatch.setattr(plain, "beam_batch", lambda model, ids, new, _, device: search(model, ids, new, 1, device))
    greedy = again((config, path), "gen_000/samples")
    with pytest.raises(AssertionError):
        is_beam_search(greedy, 3)


# --- budgets in words, training in tokens --------------------------------------------------------------------------------


def is_budget(config: RunConfig, path: Path, given: int) -> None:
    """What the optimiser was given, the ledger, and what was written are all the budget that was asked for, in tokens.

    Args:
        given: tokens that the loss was computed on, as the network saw them.
    """
    asked = config.mixing.tokens
    assert asked is not None and given == asked * config.epochs
    ledger = sets.read_mixture(path / "gen_000" / "mixture")["tokens"]
    assert sum(source["set"] for source in ledger.values()) == asked
    assert sum(source["shown"] for source in ledger.values()) == given
    assert len(samples_of(path / "gen_000" / "samples")) == asked


def test_a_budget_is_in_the_tokens_that_are_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In depth: test_mixing.py::test_ledger_equals_a_count_of_every_token, test_sampling.py::test_the_budget_is_exact."""
    forward, given = trainer.Loss.forward, 0

    def counted(loss: trainer.Loss, ids: torch.Tensor) -> torch.Tensor:
        nonlocal given
        given += ids.numel()
        return forward(loss, ids)

    monkeypatch.setattr(trainer.Loss, "forward", counted)
    config = tiny(tmp_path, generations=0)
    is_budget(config, run(config)[0], given)

    def in_words(config: RunConfig, available: int) -> int:  # 1.24 tokens to a word, as it was there
        return round(1.24 * (config.mixing.tokens or 0) / config.training.block)

    monkeypatch.setattr(sets, "set_size", in_words)
    config, given = tiny(tmp_path, generations=0, name="words"), 0
    path, _ = run(config)
    with pytest.raises(AssertionError):
        is_budget(config, path, given)


# --- an inverted tail metric ---------------------------------------------------------------------------------------------


@pytest.fixture
def wordy(tmp_path: Path) -> Made:
    """A chain whose first training set has rare words enough to be counted."""
    config = tiny(tmp_path, mixing__tokens=8192, sampling__tokens=1280, mixing__regime="accumulate")
    return config, run(config)[0]


def is_coverage(config: RunConfig, path: Path) -> None:
    """Coverage of rare words is a count by hand of those that are written, for samples and for fresh real text; this scores
    1, and text that has lost them 0."""
    counts = json.loads((path / "reference" / "tails.json").read_text())
    rare = {word for word, count in counts["words"].items() if count <= 5}
    corpus = opening.open_corpus(config, one_process())
    folder = path / "gen_002" / "samples"
    rows = rows_at(sets.read_samples(folder), generated_places(folder, config.evaluation.sample_tokens or 0))
    budget = sum(counts["fresh_words"].values())
    used = first_words([words(text) for text in decoded(corpus.tokenizer, rows)], budget)
    written = {word for row in used for word in row}
    for found, place in ((written, "gen_002/eval"), (counts["fresh_words"].keys(), "reference")):
        values = json.loads((path / place / "eval.json").read_text())["metrics"]
        assert values["tails/words/coverage_5"] == pytest.approx(len(rare & found) / len(rare))
    assert 0 < values["tails/words/coverage_5"] < 1
    assert values["tails/words/coverage_5_normalised"] == values["tails/words/tail_mass_5"] == 1
    reference = Reference(path / "reference", 257)
    frequent = [[max(counts["words"], key=counts["words"].get)]] * len(rows)
    _, lost = sample_scores.score_samples(rows, frequent, corpus, "test", reference, 257)
    assert lost["tails/words/coverage_5_normalised"] == lost["tails/words/tail_mass_5"] == 0


def missing_for_seen(masks: dict[str, np.ndarray], counts: np.ndarray, total: float) -> dict[str, dict[str, float]]:
    right = real_sums(masks, counts, total)
    return {name: part | {"seen": part["types"] - part["seen"]} for name, part in right.items()}


def head_for_tail(counts: np.ndarray) -> dict[str, np.ndarray]:
    return {name: (counts >= 1) & ~mask for name, mask in real_sets(counts).items()}


real_sums, real_sets = sample_scores.tail_sums, sample_scores.tail_sets


def test_tail_coverage_falls_as_rare_words_vanish(wordy: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """In depth: test_metrics.py, test_sample_metrics.py and test_metrics_in_context.py."""
    is_coverage(*wordy)
    for name, fault in (("tail_sums", missing_for_seen), ("tail_sets", head_for_tail)):
        with monkeypatch.context() as patch:
            patch.setattr(sample_scores, name, fault)
            again(wordy, "reference", "gen_002/eval")
        with pytest.raises((AssertionError, KeyError)):  # a tail that is another one may be too small
            is_coverage(*wordy)


# --- prompts from outside the frozen split --------------------------------------------------------------------------------


def are_training_prompts(config: RunConfig, path: Path) -> None:
    """Every prompt of every generation is the head of a block of generation 0's training set, which is of the training
    split, and each of these is used."""
    corpus = opening.open_corpus(config, one_process())
    source, places = np.fromfile(path / "gen_000" / "mixture" / "blocks.bin", "<i8").reshape(-1, 2).T
    assert (source == sets.REAL).all()
    heads = {corpus.train.ids[at * BLOCK : at * BLOCK + HEAD].tobytes() for at in places.tolist()}
    for generation in range(3):
        rows = samples_of(path / f"gen_{generation:03d}" / "samples", corpus.train.ids.dtype.str).reshape(-1, BLOCK)
        assert len(rows) == len(places) and {row[:HEAD].tobytes() for row in rows} == heads


def test_prompts_are_of_the_training_split(copied: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """In depth: test_sampling.py::test_prompts_come_from_the_text_and_each_block_is_used_once_per_pass; that splits are
    frozen: test_corpus.py::test_splits_are_frozen."""
    are_training_prompts(*copied)
    held_out = opening.open_corpus(copied[0], one_process()).test.ids

    def outside(self: Prompts, text: Any, first: int, count: int, separator: int) -> np.ndarray:
        draw = seeds.generator(self.config.seed, self.generation, "prompts")
        places = draw.integers(len(held_out) - HEAD, size=first + count)[first:]
        return np.stack([held_out[at : at + HEAD] for at in places]).astype(np.int64)

    monkeypatch.setattr(Prompts, "rows", outside)
    path = again(copied, "gen_002/samples")
    with pytest.raises(AssertionError):
        are_training_prompts(copied[0], path)


# --- every replicate on seed 1's data --------------------------------------------------------------------------------------


def are_replicates(paths: list[Path]) -> None:
    """Chains of two seeds have training text, first weights, trained weights and samples of their own."""
    one, two = (Chain(path) for path in paths)
    texts = [np.fromfile(chain.stage(0, "mixture") / "blocks.bin", "<i8").reshape(-1, 2)[:, 1] for chain in (one, two)]
    assert len(np.intersect1d(*texts)) < len(texts[0]) / 2
    began = [json.loads((c.stage(0, "train") / "collapselab.json").read_text())["started_from"] for c in (one, two)]
    assert began[0] != began[1]
    for stage, file in (("train", "model.safetensors"), ("samples", "tokens-00000.bin")):
        assert (one.stage(0, stage) / file).read_bytes() != (two.stage(0, stage) / file).read_bytes()


@pytest.fixture(scope="module")
def replicates(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Seeds 1 and 2 of an arm, as an experiment runs them."""
    folder = tmp_path_factory.mktemp("replicates")
    return [run(tiny(folder, generations=0, seed=seed), shares_generation_0=True)[0] for seed in (1, 2)]


def of_seed_1(derive: Callable) -> Callable:
    return lambda seed, *rest: derive(1, *rest)


def shared_by_all_seeds(chain: Chain, digests: dict[str, str]) -> None:
    for name, digest in digests.items():
        chain.shared[name] = chain.root.parents[1] / "shared" / digest / "seed=1"


@pytest.mark.parametrize(
    ("owner", "name", "fault"),
    [
        (sets, "generator", of_seed_1(seeds.generator)),
        (seeds, "derive", of_seed_1(seeds.derive)),
        (Chain, "use_shared", shared_by_all_seeds),
    ],
    ids=["the text", "every draw", "the folder of generation 0"],
)
def test_each_seed_has_data_of_its_own(
    replicates: list[Path], tmp_path: Path, owner: Any, name: str, fault: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In depth: test_experiment.py::test_generation_0_is_trained_once_per_seed_and_shared_by_digest."""
    are_replicates(replicates)
    shutil.copytree(replicates[0].parents[1], tmp_path / "test")
    shutil.rmtree(tmp_path / "test" / "arm=main" / "seed=2")
    for folder in (tmp_path / "test" / "shared").glob("*/seed=2"):
        shutil.rmtree(folder)
    monkeypatch.setattr(owner, name, fault)
    second, _ = run(tiny(tmp_path, generations=0, seed=2), shares_generation_0=True)
    with pytest.raises(AssertionError):
        are_replicates([replicates[0], second])


# --- the last generation missing from the plot -----------------------------------------------------------------------------


def is_drawn_to_the_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last line of metrics.jsonl is the last point of every curve, cell, bar and ridge of page and PNG, inside its axis."""
    last = json.loads((path / "metrics.jsonl").read_text().splitlines()[-1])["generation"]
    found = files.open_run(path)
    groups = protocols.grouped(found.chains)
    parts = {group.label: pages.tables_of(group, found.baseline) for group in groups}
    text = page.render(found, groups, parts, {"tables": [], "figures": []})
    (data,) = re.findall(r"<script[^>]*application/json[^>]*>(.*?)</script>", text, re.S)
    charts = {chart["id"]: chart for chart in json.loads(data)["charts"]}
    assert {"likelihood", "tails", "diversity", "frequency", "ledger", "distribution"} <= charts.keys()
    ridges = charts.pop("distribution")
    assert any(f"generation {last}<" in trace["hovertemplate"] for trace in ridges["data"])
    assert len(re.findall(rf"<th[^>]*>generation {last}</th>", text)) >= 5  # of the tables below the charts
    for name, chart in charts.items():
        for trace in chart["data"]:
            assert max(trace["x"]) >= last, name
            axis = chart["layout"]["xaxis" + trace["xaxis"][1:]]
            assert axis["range"][0] < 0 and axis["range"][1] > last, name
    monkeypatch.setattr(figures, "png", lambda figure: figure)
    for draw in (figures.likelihood, figures.diversity, figures.tails):
        for axis in draw(found.chains).axes:  # type: ignore[union-attr]  # the figure itself, see above
            (curve, *_) = axis.get_lines()
            assert list(curve.get_xdata()) == list(range(last + 1)) and axis.get_xlim()[1] >= last


real_panel, real_by_generation, real_read = spec.Figure.panel, series.by_generation, files.read_metrics


def shorter_panel(figure: Any, title: str, generations: int, *more: Any, **named: Any) -> Any:
    return real_panel(figure, title, generations - 1, *more, **named)


def without_last(members: list[Any], key: str) -> dict[int, Any]:
    return dict(list(real_by_generation(members, key).items())[:-1])


def test_the_gallery_draws_to_the_last_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pictures too, where a seed lacks a value in between, and laws beside them."""
    values = {arm: np.random.default_rng(1).random((3, 6)) for arm in ("a", "b")}
    values["b"][1, 2] = np.nan
    monkeypatch.setattr(gallery, "png", lambda figure: figure)

    def is_whole() -> None:
        drawn: Any = gallery.draw({"x": values}, {"x": {"a": values["a"]}}, {"x": 0.5}, {})
        (axis,) = drawn.axes
        ends = [max(line.get_xdata()) for line in axis.get_lines() if len(line.get_xdata()) > 2]
        assert ends == [5, 5, 5] and axis.get_xlim()[1] >= 5

    is_whole()
    plot = Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda axis, *lines, **look: plot(axis, *(line[:-1] for line in lines), **look))
    with pytest.raises(AssertionError):
        is_whole()


def test_the_last_generation_is_in_every_plot(wordy: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """In depth: test_report.py::test_one_generation_and_fifty."""
    is_drawn_to_the_end(wordy[1], monkeypatch)
    for owner, name, fault in (
        (files, "read_metrics", lambda path: real_read(path)[:-1]),
        (series, "by_generation", without_last),
        (spec.Figure, "panel", shorter_panel),
    ):
        with monkeypatch.context() as patch, pytest.raises(AssertionError):
            patch.setattr(owner, name, fault)
            is_drawn_to_the_end(wordy[1], patch)


# --- self-BLEU that costs more than decoding -------------------------------------------------------------------------------


def median_seconds(work: Callable[[], Any], times: int) -> float:
    """Of this process's CPU, which other processes do not lengthen."""
    taken = []
    for _ in range(times):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return statistics.median(taken)


def pair_by_pair(rows: list[list[str]]) -> dict[str, float]:
    """Each sample against the explicit list of all others, as it is usually written."""
    from sacrebleu.metrics import BLEU

    texts, score = [" ".join(row) for row in rows], BLEU(effective_order=True).sentence_score
    total = sum(score(text, texts[:i] + texts[i + 1 :]).score / 100 for i, text in enumerate(texts))
    return {"samples": len(rows), "bleu": total}


def test_self_bleu_costs_less_than_writing_the_text(finished: Made, tmp_path: Path) -> None:
    """Of as many samples as the default asks for; a factor of five or more on either side of the limit. That the two agree in
    depth: test_sample_metrics.py."""
    config, path = finished
    count = RunConfig().evaluation.self_bleu_samples
    assert count == 200
    corpus = opening.open_corpus(config, one_process())
    model = modeling.ModelCache(config.model.pad_vocabulary, corpus.tokenizer).read(
        path / "gen_002" / "train", Chain(path).digest_of(2, "train")
    )
    config = small_config(sampling__prompt="bos", sampling__batch_size=100)
    sampler = sampling.Sampler(config, one_process(), quiet())
    ends = iter(range(9))

    def write() -> None:
        out = tmp_path / str(next(ends))
        out.mkdir()
        sampler.sample(model, 0, None, count * BLOCK, separator=0, ends=[], out=out)

    write()  # memory is taken and kernels are chosen
    decoding = median_seconds(write, 3)
    # The words of real text of this length: a model this small writes few.
    pieces = [corpus.train.ids[i * BLOCK : (i + 1) * BLOCK].tolist() for i in range(2 * count)]
    rows = [row for row in map(words, corpus.tokenizer.decode(pieces)) if row][:count]
    assert len(rows) == count
    assert pair_by_pair(rows[:40])["bleu"] == pytest.approx(self_bleu_sums(rows[:40])["bleu"], rel=1e-9)
    self_bleu_sums(rows)

    def is_cheap(measure: Callable[[list[list[str]]], Any], times: int) -> None:
        assert median_seconds(lambda: measure(rows), times) < decoding

    is_cheap(sample_scores.self_bleu_sums, 5)
    with pytest.raises(AssertionError):
        is_cheap(pair_by_pair, 1)


# --- artifacts lost ----------------------------------------------------------------------------------------------------


def is_all_there(config: RunConfig, path: Path) -> None:
    """Of every generation the mixture, the weights, the text and the scores, as they were published and made from each
    other, and usable."""
    chain, tokenizer = Chain(path), opening.open_corpus(config, one_process()).tokenizer
    for g in range(config.generations + 1):
        for name in STAGES:
            manifest = folders.manifest_of(chain.stage(g, name))  # reads every byte
            assert manifest is not None and manifest["files"], (g, name)
            for of, digest in manifest["inputs"].items():
                if of in ("train", "samples", "mixture"):
                    before = g - 1 if name == "mixture" else g
                    assert digest == chain.digest_of(before, of), (g, name, of)
        assert len(samples_of(chain.stage(g, "samples"))) == config.mixing.tokens
        model = modeling.ModelCache(config.model.pad_vocabulary, tokenizer).read(
            chain.stage(g, "train"), chain.digest_of(g, "train")
        )
        assert model.parameters > 1000
    assert len(read_metrics(path)) == config.generations + 1


def loses(what: str) -> Callable[[Session, int], None]:
    """What follows a generation where that clears up a part of the one before."""

    def prune(session: Session, generation: int) -> None:
        if generation:
            folder, _, file = what.partition("/")
            place = session.chain.stage(generation - 1, folder) / file
            shutil.rmtree(place) if place.is_dir() else place.unlink()

    return prune


@pytest.mark.parametrize("what", ["samples", "train/model.safetensors", "eval/eval.json"])
def test_every_artifact_of_every_generation_is_kept(copied: Made, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In depth: test_chain.py::test_damage_is_found_and_redone, test_damage.py; reports that are sent:
    test_tracking.py::test_a_runs_report_is_an_artifact_of_its_chain."""
    is_all_there(*copied)
    monkeypatch.setattr(chain_module, "prune", loses(what))
    config, path = replace(copied[0], generations=1), copied[1]
    shutil.rmtree(path / "gen_002")
    (path / "metrics.jsonl").unlink()
    run(config)
    with pytest.raises(AssertionError):
        is_all_there(config, path)


# --- no resume ---------------------------------------------------------------------------------------------------------


def goes_on(finished: Made, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """A chain that is cut off in the middle of training goes on from its last checkpoint, leaves what was finished as it is,
    and ends with the bytes of one that was not cut off.

    Args:
        finished: the chain that ran in one go; this one begins with its generation 0, in `folder`.
    """
    config, whole = finished
    path = folder / whole.relative_to(config.runs_dir)
    shutil.copytree(whole.parents[1], folder / config.name)
    config = replace(config, runs_dir=str(folder), generations=1)
    config = replace(config, training=replace(config.training, checkpoint_steps=2))
    for made in ("gen_001/train", "gen_001/samples", "gen_001/eval", "gen_002"):
        shutil.rmtree(path / made)
    add, steps = trainer.Log.add, list[int]()

    def counted(log: trainer.Log, step: int, *rest: Any) -> None:
        steps.append(step)
        if len(steps) == 4:
            raise KeyboardInterrupt
        add(log, step, *rest)

    before = {file: file.stat().st_mtime_ns for file in path.rglob("manifest.json")}
    patch.setattr(trainer.Log, "add", counted)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    run(config)
    assert steps == [0, 1, 2, 3, 2, 3, 4]
    assert {file: file.stat().st_mtime_ns for file in before} == before
    for g in (0, 1):
        for name in STAGES:
            assert Chain(path).digest_of(g, name) == Chain(whole).digest_of(g, name), (g, name)


def whatever_is_there(session: Session, generation: int, name: str) -> bool:
    shutil.rmtree(session.place(generation, name), ignore_errors=True)
    return making.make(session, generation, name)


def test_an_interrupted_chain_goes_on(finished: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In depth: test_chain.py::test_an_interrupted_chain_ends_with_the_same_bytes, test_signals.py, test_kill.py."""
    with monkeypatch.context() as patch:
        goes_on(finished, tmp_path / "right", patch)
    for number, (owner, name, fault) in enumerate(
        (
            (chain_module, "make", whatever_is_there),  # everything is made anew
            (unfinished.Unfinished, "parts", lambda *_: ({}, [])),  # the stage is
            (
                trainer.checkpoints,
                "load",
                lambda folder, *_: folders.read_json(folder / "progress.json"),
            ),  # no weights
        )
    ):
        with monkeypatch.context() as patch, pytest.raises(AssertionError):
            patch.setattr(owner, name, fault)
            goes_on(finished, tmp_path / str(number), patch)


# --- a dashboard guard that is never true -----------------------------------------------------------------------------------


def is_mirrored(path: Path) -> None:
    """The dashboard has every generation, under its own number, with the numbers of metrics.jsonl."""
    kept = wandb_files(path)
    assert len(kept) == 1
    rows, found = read_metrics(path), wandb_rows(kept[0])
    assert [row["_step"] for row in found] == [row["generation"] for row in rows] == [0, 1]
    for row, one in zip(rows, found, strict=True):
        assert row["metrics"].items() <= one.items()


def test_a_dashboard_that_is_on_gets_every_row(finished: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In depth: test_tracking.py::test_every_value_of_metrics_jsonl_is_there_under_its_own_name."""
    config = tiny(tmp_path, generations=1, tracking__wandb="offline", sampling__temperature=0.9)
    path, _ = run(config, (finished[1], 0), shares_generation_0=True)
    is_mirrored(path)
    assert not wandb_files(finished[1])  # its dashboard is off

    def guarded(config: RunConfig, chain: Path, console: Any, mode: str | None) -> Tracker:
        return Tracker(config, chain, console, mode if config.tracking.wandb == "on" else "off")  # off, online, offline

    monkeypatch.setattr(chain_module, "Tracker", guarded)
    shutil.rmtree(path / "wandb")
    again((config, path), "gen_001/eval")
    with pytest.raises(AssertionError):
        is_mirrored(path)

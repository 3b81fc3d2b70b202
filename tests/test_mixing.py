"""Schedules, regimes, and a ledger that equals what is counted token by token."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from helpers import small_config
from hypothesis import given, settings
from hypothesis import strategies as st

from collapselab.chain.preflight import check_supply
from collapselab.config import MixingConfig, RunConfig, UserError, schedules
from collapselab.config.generations import ONE_REGIME
from collapselab.corpus.prepared import Tokens
from collapselab.mixing import regimes
from collapselab.mixing import sets as mixing
from collapselab.mixing.regimes import REGIMES, Inputs, real_blocks
from collapselab.mixing.sets import Past, TrainingSet, set_blocks
from collapselab.mixing.sources import REAL
from collapselab.seeds import generator
from collapselab.store.folders import publishing, read_json, write_json
from collapselab.store.layout import Chain

BLOCK = 32


def tokens_of(count: int, documents: int = 4) -> Tokens:
    ids = (np.arange(count) % 50021).astype(np.uint16)
    starts = np.linspace(0, count, documents + 1).astype(np.int64)
    return Tokens(ids, starts, np.ones(count, np.uint32))


def make_samples(
    chain: Chain, generation: int, tokens: int, length: int, head: int, source: str = "real"
) -> np.ndarray:
    """A samples folder whose tokens say where they stand: 50,000 less their place."""
    flat = (50000 - np.arange(tokens) % 40000).astype("<u2")
    meta = {"tokens": tokens, "length": length, "prompt_length": head, "prompt_from": source, "dtype": "<u2"}
    meta |= {"sequences": -(-tokens // length), "vocab": 1 << 16, "degenerate": {}}
    with publishing(chain.stage(generation, "samples"), inputs={}) as out:
        flat.tofile(out / "tokens-00000.bin")
        write_json(out / "meta.json", meta | {"shards": ["tokens-00000.bin"]})
    return flat


def inputs_of(
    config: MixingConfig, generation: int, size: int, order: np.ndarray, used: int, sampled: list[int],
    share: float | None, seed: int, *previous: Any,
) -> Inputs:  # fmt: skip
    before = len(previous[0]()) if previous else size
    return Inputs(config, generation, size, before, sampled[-1], share, seed, order, used, sampled, *previous)


def mix(config, chain: Chain, generation: int, train: Tokens) -> dict:
    with publishing(chain.stage(generation, "mixture"), inputs={}) as out:
        mixing.mix(config, chain, generation, train, "text", out)
    return read_json(chain.stage(generation, "mixture") / "mixture.json")


@pytest.mark.parametrize(
    ("settings_", "expected"),
    [
        ({"schedule": "constant", "start": 0.3}, [0.3, 0.3, 0.3, 0.3]),
        ({}, [0.9, 0.81, 0.729, 0.6561]),
        ({"schedule": "geometric", "start": 1.0, "ratio": 0.5}, [1.0, 0.5, 0.25, 0.125]),
        ({"schedule": "linear", "start": 0.9, "end": 0.3}, [0.9, 0.7, 0.5, 0.3]),
        ({"schedule": "cosine", "start": 1.0, "end": 0.0}, [1.0, 0.75, 0.25, 0.0]),
        ({"schedule": "harmonic"}, [1 / 2, 1 / 3, 1 / 4, 1 / 5]),
        ({"schedule": "power", "power": 2.0}, [1 / 4, 1 / 9, 1 / 16, 1 / 25]),
        ({"schedule": "list", "values": [0.4, 0.1, 0.0, 0.2]}, [0.4, 0.1, 0.0, 0.2]),
        ({"schedule": "geometric", "start": 1.0, "ratio": 0.5, "floor": 0.3}, [1.0, 0.5, 0.3, 0.3]),
    ],
)
def test_every_schedule(settings_: dict, expected: list[float]) -> None:
    config = MixingConfig(**settings_)
    assert schedules.real_share(config, 0, 4) == 1.0
    assert [schedules.real_share(config, g, 4) for g in range(1, 5)] == pytest.approx(expected)


def test_every_schedule_and_regime_that_can_be_named_exists() -> None:
    from typing import get_args, get_type_hints

    hints = get_type_hints(MixingConfig)
    named = {v for part in get_args(hints["schedule"]) for v in get_args(part)}
    assert named == set(schedules.SCHEDULES)
    assert set(get_args(hints["regime"])) == set(REGIMES)


def test_every_setting_that_one_regime_has_is_its_regimes() -> None:
    settings_ = {field.name for field in dataclasses.fields(MixingConfig)}
    assert {key: [name for name, regime in REGIMES.items() if key in regime.keys] for key in ONE_REGIME} == {
        key: [regime] for key, regime in ONE_REGIME.items()
    }
    assert all(settings_.issuperset(regime.keys) for regime in REGIMES.values())


def test_sets_that_grow() -> None:
    assert {name for name, regime in REGIMES.items() if regime.grows} == {"accumulate", "keep_real", "expanding"}


@pytest.mark.parametrize("regime", REGIMES)
def test_a_pool_is_drawn_from_as_whole_numbers_are(regime: str) -> None:
    """Blocks are chosen by permutations of places, so that a pool from elsewhere changes none of what is drawn."""
    previous = np.stack([np.full(12, REAL), np.arange(12)], axis=1)
    inputs = inputs_of(MixingConfig(regime=regime), 2, 12, np.arange(40), 12, [14, 13], 0.25, 7, lambda: previous)
    assert inputs.pool(1).tolist() == [[1, place] for place in range(13)]
    blocks = REGIMES[regime].choose(inputs)
    assert len(blocks) == REGIMES[regime].size(dataclasses.replace(inputs, written=13)) + (regime == "accumulate")
    if regime == "replace":
        places = generator(7, 2, "mixture").permutation(13)[:9]
        assert blocks[blocks[:, 0] == 1, 1].tolist() == places.tolist()


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 1), st.integers(1, 500), st.integers(0, 2**32))
def test_share_is_rounded_up_or_down_to_a_neighbour(share: float, size: int, seed: int) -> None:
    count = real_blocks(share, size, seed, 3)
    assert math.floor(share * size - 1e-6) <= count <= math.ceil(share * size + 1e-6)
    assert 0 <= count <= size


def test_share_below_one_block_has_the_right_mean() -> None:
    counts = [real_blocks(0.05, 5, seed, 1) for seed in range(4000)]  # 0.25 of a block
    assert set(counts) == {0, 1}
    assert np.mean(counts) == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 4000))


def test_replace_takes_fresh_real_text_and_the_newest_samples(tmp_path) -> None:
    config = small_config(mixing__tokens=10 * BLOCK, mixing__schedule="constant", mixing__start=0.3, generations=3)
    chain, train = Chain(tmp_path), tokens_of(100 * BLOCK)
    mix(config, chain, 0, train)
    shown = [set(map(tuple, TrainingSet(config, chain, 0, train).blocks.tolist()))]
    for g in (1, 2, 3):
        make_samples(chain, g - 1, 10 * BLOCK, BLOCK, 1)
        facts = mix(config, chain, g, train)
        blocks = TrainingSet(config, chain, g, train).blocks
        assert (blocks[:, 0] == REAL).sum() == 3 and set(blocks[:, 0]) == {REAL, g - 1}
        assert facts["real_share"] == {"asked": 0.3, "realised": 0.3}
        assert len(set(map(tuple, blocks.tolist()))) == 10  # nothing twice
        shown.append({b for b in map(tuple, blocks.tolist()) if b[0] == REAL})
    real = [b for part in shown for b in part]
    assert len(real) == len(set(real)) == 10 + 9  # never shown before
    assert read_json(chain.stage(3, "mixture") / "mixture.json")["real_blocks_used"] == 19


def test_reused_real_text_is_generation_zeros(tmp_path) -> None:
    config = small_config(
        mixing__tokens=10 * BLOCK, mixing__schedule="list", mixing__values=[0.5, 0.2], mixing__real="reuse"
    )
    chain, train = Chain(tmp_path), tokens_of(11 * BLOCK)
    mix(config, chain, 0, train)
    first = [b for _, b in TrainingSet(config, chain, 0, train).blocks.tolist()]
    for g, count in ((1, 5), (2, 2)):
        make_samples(chain, g - 1, 10 * BLOCK, BLOCK, 1)
        mix(config, chain, g, train)
        blocks = TrainingSet(config, chain, g, train).blocks
        assert [b for s, b in blocks.tolist() if s == REAL] == first[:count]


def test_accumulate_keeps_everything(tmp_path) -> None:
    config = small_config(mixing__tokens=10 * BLOCK, mixing__regime="accumulate", generations=2)
    chain, train = Chain(tmp_path), tokens_of(40 * BLOCK)
    mix(config, chain, 0, train)
    for g in (1, 2):
        make_samples(chain, g - 1, 10 * BLOCK, BLOCK, 1)
        facts = mix(config, chain, g, train)
        assert facts["blocks"] == 10 * (g + 1)
        assert facts["real_share"]["realised"] == pytest.approx(1 / (g + 1))
        assert facts["real_share"]["asked"] is None


def test_keep_real_has_all_real_text_and_the_newest_samples_alone(tmp_path) -> None:
    config = small_config(mixing__tokens=10 * BLOCK, mixing__regime="keep_real", generations=3)
    chain, train = Chain(tmp_path), tokens_of(40 * BLOCK)
    mix(config, chain, 0, train)
    first = TrainingSet(config, chain, 0, train).blocks
    for g, wrote in ((1, 10), (2, 10), (3, 4)):
        make_samples(chain, g - 1, wrote * BLOCK, BLOCK, 1)
        facts = mix(config, chain, g, train)
        blocks = TrainingSet(config, chain, g, train).blocks
        assert np.array_equal(blocks[:10], first)
        assert blocks[10:].tolist() == [[g - 1, place] for place in range(wrote)]
        assert facts["real_share"] == {"asked": None, "realised": 10 / (10 + wrote)}
        assert facts["real_blocks_used"] == 10 and facts["tokens"]["real"]["set"] == 10 * BLOCK


REGIME = st.sampled_from(sorted(REGIMES))


@settings(max_examples=20, deadline=None)
@given(REGIME, REGIME, st.sampled_from([0.06, 0.25, 0.5]), st.integers(0, 2**32))
def test_a_plan_knows_how_large_each_training_set_will_be(first: str, then: str, share: float, seed: int) -> None:
    """Of a chain and of a fork of it under another regime, where a share is no whole number of blocks too."""
    keys: dict[str, Any] = {"mixing__tokens": 10 * BLOCK, "mixing__start": 0.0, "generations": 5, "seed": seed}

    def of(regime: str) -> RunConfig:
        own = {"expanding": {"mixing__added": share}, "incremental": {"mixing__replaced": share / 2}}  # grown sets too
        return small_config(**keys, mixing__regime=regime, **own.get(regime, {}))

    train, made = tokens_of(40 * BLOCK), []
    with TemporaryDirectory() as folder:
        chain = Chain(Path(folder))
        for g in range(6):
            made.append(mix(of(first if g < 3 else then), chain, g, train)["blocks"])
            make_samples(chain, g, 10 * BLOCK, BLOCK, 1)
            if g == 2:
                assert made == set_blocks(of(first), 40, [])[:3]
    assert made == set_blocks(of(then), 40, made[:3]) == set_blocks(of(then), 40, made[:5])


def test_a_fork_of_a_set_that_has_grown_is_refused_before_it_starts_where_too_little_is_written() -> None:
    config = small_config(mixing__tokens=10 * BLOCK, mixing__regime="incremental", mixing__replaced=0.5)
    check_supply(config, 40, Past([], [10, 20], 10))
    with pytest.raises(UserError, match=r"needs 480 tokens .* or lower mixing\.replaced"):
        check_supply(config, 40, Past([], [10, 30], 10))
    check_supply(config, 40, Past([], [10, 20, 30], 10))  # there is nothing left to mix


def test_subsample_draws_from_the_whole_pool_without_replacement(tmp_path) -> None:
    counts = np.zeros(3)
    for seed in range(30):
        config = small_config(mixing__tokens=20 * BLOCK, mixing__regime="accumulate_subsample", seed=seed)
        chain, train = Chain(tmp_path / str(seed)), tokens_of(40 * BLOCK)
        mix(config, chain, 0, train)
        for g in (1, 2):
            make_samples(chain, g - 1, 20 * BLOCK, BLOCK, 1)
            assert mix(config, chain, g, train)["blocks"] == 20
        blocks = TrainingSet(config, chain, 2, train).blocks
        assert len(set(map(tuple, blocks.tolist()))) == 20
        counts += np.bincount(blocks[:, 0] + 1, minlength=3)
    # 600 draws from three equal parts, without replacement within a chain: at most the multinomial's spread.
    assert np.abs(counts - 200).max() < 4 * math.sqrt(600 * 2 / 9)


def chain_of(folder: Path, generations: int, train: Tokens, **keys: object) -> Iterator[tuple[dict, np.ndarray]]:
    """(mixture.json, blocks) of generations 0 .. `generations`, each of which writes as much as a set has."""
    config = small_config(generations=generations, **keys)
    chain = Chain(folder)
    for g in range(generations + 1):
        facts = mix(config, chain, g, train)
        make_samples(chain, g, config.sampling.tokens or config.mixing.tokens or 0, BLOCK, 1)
        yield facts, TrainingSet(config, chain, g, train).blocks


@settings(max_examples=5, deadline=None)
@given(st.integers(2, 12), st.integers(0, 2**32))
def test_balanced_takes_equal_parts_of_all_there_is(size: int, seed: int) -> None:
    with TemporaryDirectory() as folder:
        made = list(
            chain_of(
                Path(folder),
                3,
                tokens_of(40 * BLOCK),
                mixing__tokens=size * BLOCK,
                mixing__regime="balanced",
                seed=seed,
            )
        )
    first = set(map(tuple, made[0][1].tolist()))
    for g, (facts, blocks) in enumerate(made):
        assert facts["blocks"] == len(set(map(tuple, blocks.tolist()))) == size
        parts = np.bincount(blocks[:, 0] + 1, minlength=g + 1)
        assert parts.max() - parts.min() <= 1 and len(parts) == g + 1
        assert {b for b in map(tuple, blocks.tolist()) if b[0] == REAL} <= first  # generation 0's, never new ones
        assert facts["real_share"]["realised"] == parts[0] / size
        ledger = facts["tokens"]
        assert [ledger.get(name, {"set": 0})["set"] for name in ("real", "generation_0")] == [
            parts[0] * BLOCK,
            (parts[1] if g else 0) * (BLOCK - 1),  # a token of each is its prompt
        ]


def test_what_does_not_divide_goes_to_any_part() -> None:
    counts = np.zeros(3)
    for seed in range(300):
        blocks = regimes.balanced(inputs_of(MixingConfig(), 2, 4, np.arange(9), 4, [4, 4], None, seed))
        counts += np.bincount(blocks[:, 0] + 1, minlength=3) - 1
    assert np.abs(counts - 100).max() < 4 * math.sqrt(300 * 2 / 9)


@settings(max_examples=5, deadline=None)
@given(st.sampled_from([0.1, 0.25, 0.5, 1.0]), st.integers(0, 2**32))
def test_incremental_replaces_a_share_of_the_set_before(share: float, seed: int) -> None:
    keys = {"mixing__tokens": 10 * BLOCK, "mixing__regime": "incremental", "mixing__replaced": share, "seed": seed}
    with TemporaryDirectory() as folder:
        made = [set(map(tuple, b.tolist())) for _, b in chain_of(Path(folder), 4, tokens_of(40 * BLOCK), **keys)]
    for g, (before, after) in enumerate(itertools.pairwise(made), 1):
        new = after - before
        assert len(after) == 10 and {source for source, _ in new} <= {g - 1}
        assert math.floor(10 * share) <= len(new) <= math.ceil(10 * share)


@settings(max_examples=5, deadline=None)
@given(st.sampled_from([0.1, 0.25, 0.5, 1.0]), st.integers(0, 2**32))
def test_expanding_adds_a_share_of_the_newest_samples_and_keeps_everything(share: float, seed: int) -> None:
    keys = {"mixing__tokens": 10 * BLOCK, "mixing__regime": "expanding", "mixing__added": share, "seed": seed}
    with TemporaryDirectory() as folder:
        made = [list(map(tuple, b.tolist())) for _, b in chain_of(Path(folder), 4, tokens_of(40 * BLOCK), **keys)]
    for g, (before, after) in enumerate(itertools.pairwise(made), 1):
        new = set(after) - set(before)
        assert after[: len(before)] == before and len(after) == len(set(after)) == len(before) + len(new)
        assert {source for source, _ in new} <= {g - 1}
        assert math.floor(10 * share) <= len(new) <= math.ceil(10 * share)


def test_what_is_added_is_drawn_at_random() -> None:
    before = np.stack([np.full(4, REAL), np.arange(4)], axis=1)
    taken = np.zeros(8)
    for seed in range(400):
        config = MixingConfig(regime="expanding", added=0.75)
        found = regimes.expanding(inputs_of(config, 1, 4, np.arange(4), 4, [8], None, seed, lambda: before))
        assert len(found) == 4 + 3
        taken[found[found[:, 0] == 0, 1]] += 1
    assert np.abs(taken - 150).max() < 4 * math.sqrt(150 * 5 / 8)


def test_what_is_replaced_is_drawn_at_random() -> None:
    kept = np.zeros(8)
    before = np.stack([np.full(8, REAL), np.arange(8)], axis=1)
    for seed in range(400):
        found = regimes.incremental(
            inputs_of(MixingConfig(regime="incremental"), 1, 8, np.arange(8), 8, [8], None, seed, lambda: before)
        )
        kept[found[found[:, 0] == REAL, 1]] += 1
    assert kept.sum() == 4 * 400
    assert np.abs(kept - 200).max() < 4 * math.sqrt(400 / 4)


@pytest.mark.parametrize(
    ("regime", "share", "least"),
    [("balanced", {}, 25), ("incremental", {"replaced": 0.3}, 15), ("expanding", {"added": 0.3}, 15)],
)
def test_regimes_say_how_much_has_to_be_written(regime: str, share: dict[str, float], least: int) -> None:
    keys = {"mixing__tokens": 50 * BLOCK, "mixing__regime": regime, **{f"mixing__{k}": v for k, v in share.items()}}
    check_supply(small_config(**keys, sampling__tokens=least * BLOCK), 50)
    with pytest.raises(UserError, match=r"sampling\.tokens=\d+: a generation needs"):
        check_supply(small_config(**keys, sampling__tokens=(least - 1) * BLOCK), 50)
    few = inputs_of(MixingConfig(regime=regime, **share), 1, 50, np.arange(50), 50, [3], None, 1,
                 lambda: np.zeros((50, 2), np.int64))  # fmt: skip
    with pytest.raises(UserError, match=r"sampling\.tokens: generation 1 needs"):
        REGIMES[regime].choose(few)


@pytest.mark.parametrize("loss_on_last", [None, 10])
@pytest.mark.parametrize(("length", "head"), [(BLOCK, 1), (BLOCK, 12), (48, 16), (20, 3)])
def test_ledger_equals_a_count_of_every_token(tmp_path, loss_on_last, length: int, head: int) -> None:
    config = small_config(
        mixing__tokens=12 * BLOCK, mixing__schedule="constant", mixing__start=0.25, training__loss_on_last=loss_on_last,
        training__tokens=29 * BLOCK, sampling__length=length, model__context=64,
    )  # fmt: skip
    chain, train = Chain(tmp_path), tokens_of(100 * BLOCK)
    mix(config, chain, 0, train)
    make_samples(chain, 0, 12 * BLOCK, length, head)
    facts = mix(config, chain, 1, train)
    blocks = TrainingSet(config, chain, 1, train).blocks
    from collapselab.seeds import batch_order

    times = np.bincount(batch_order(config.seed, 1, 12, 29), minlength=12)
    assert times.sum() == 29 and set(times) == {2, 3}
    counted: dict[str, dict[str, int]] = {}
    for row, (source, place) in enumerate(blocks.tolist()):
        for i in range(BLOCK):
            in_prompt = source != REAL and (place * BLOCK + i) % length < head
            name = "real" if source == REAL else "prompt_real" if in_prompt else f"generation_{source}"
            entry = counted.setdefault(name, {"set": 0, "shown": 0, "loss": 0})
            entry["set"] += 1
            entry["shown"] += int(times[row])
            entry["loss"] += int(times[row]) * (i >= (BLOCK - loss_on_last if loss_on_last else 1))
    assert facts["tokens"] == counted


def test_blocks_hold_the_text_they_name(tmp_path) -> None:
    config = small_config(mixing__tokens=8 * BLOCK, mixing__schedule="constant", mixing__start=0.5)
    chain, train = Chain(tmp_path), tokens_of(50 * BLOCK)
    mix(config, chain, 0, train)
    flat = make_samples(chain, 0, 8 * BLOCK, BLOCK, 1)
    mix(config, chain, 1, train)
    data = TrainingSet(config, chain, 1, train)
    for row, (source, place) in enumerate(data.blocks.tolist()):
        stream = train.ids if source == REAL else flat
        assert (data[np.array([row])][0] == stream[place * BLOCK : (place + 1) * BLOCK]).all()


def test_running_out_of_fresh_text_is_said_before_the_start() -> None:
    config = small_config(mixing__tokens=50 * BLOCK, mixing__schedule="constant", mixing__start=0.5, generations=4)
    with pytest.raises(UserError, match="never shown before"):
        check_supply(config, 149)  # needs 50 + 4 x 25
    assert check_supply(config, 150) == 150
    reuse = small_config(
        mixing__tokens=50 * BLOCK, mixing__schedule="constant", mixing__start=0.5, mixing__real="reuse"
    )
    assert check_supply(reuse, 50) == 50


def test_advice_of_the_refusal_works() -> None:
    import re

    config = small_config(mixing__tokens=50 * BLOCK, mixing__schedule="constant", mixing__start=0.5, generations=4)
    with pytest.raises(UserError) as caught:
        check_supply(config, 100)
    most = int(re.search(r"at most (\d+)", str(caught.value)).group(1))  # type: ignore[union-attr]
    check_supply(small_config(**{**_half(), "mixing__tokens": most, "generations": 4}), 100)


def _half() -> dict:
    return {"mixing__schedule": "constant", "mixing__start": 0.5}


def test_too_few_samples_are_refused_before_the_start() -> None:
    config = small_config(mixing__tokens=50 * BLOCK, sampling__tokens=10 * BLOCK, mixing__start=0.0)
    with pytest.raises(UserError, match=r"sampling\.tokens"):
        check_supply(config, 1000)


def test_accumulating_nothing_is_refused() -> None:
    config = small_config(mixing__tokens=50 * BLOCK, mixing__regime="accumulate", sampling__tokens=BLOCK - 1)
    with pytest.raises(UserError, match="nothing would be accumulated"):
        check_supply(config, 1000)


def test_documents_as_unit_must_have_one_length() -> None:
    config = small_config(mixing__unit="documents", sampling__prompt="bos")
    good = tokens_of(10 * BLOCK, documents=10)
    assert mixing.blocks_available(good, config) == 10
    bad = Tokens(good.ids, np.array([0, 32, 70, 320]), good.nbytes)
    with pytest.raises(UserError, match=r"mixing\.unit"):
        mixing.blocks_available(bad, config)


def test_inputs_of_a_regime_are_all_a_regime_needs() -> None:
    """A regime chooses by a function from Inputs to blocks: here one that takes real text only."""

    def only_real(inputs: Inputs) -> np.ndarray:
        return np.stack([np.full(inputs.size, REAL), inputs.real_order[: inputs.size]], axis=1)

    inputs = inputs_of(MixingConfig(), 1, 4, np.arange(9), 4, [4], 0.5, 1)
    assert only_real(inputs).tolist() == [[REAL, 0], [REAL, 1], [REAL, 2], [REAL, 3]]
    assert regimes.replace(inputs).shape == (4, 2)


def test_a_mixture_names_the_text_it_points_at(tmp_path) -> None:
    config = small_config(mixing__tokens=8 * BLOCK, mixing__schedule="constant", mixing__start=0.5)
    chain, train = Chain(tmp_path), tokens_of(50 * BLOCK)
    mix(config, chain, 0, train)
    make_samples(chain, 0, 8 * BLOCK, BLOCK, 1)
    assert mix(config, chain, 1, train)["sources"] == {"real": "text", "generation_0": chain.digest_of(0, "samples")}


def test_supply_counts_what_the_past_has_really_used() -> None:
    """A fork whose past used more, or less, than its own schedule would have."""
    config = small_config(mixing__tokens=10 * BLOCK, mixing__schedule="constant", mixing__start=0.6, generations=5)
    with pytest.raises(UserError, match="never shown before"):
        check_supply(config, 48, Past([], [10] * 4, 37))  # 37 + 2 x 6
    assert check_supply(config, 49, Past([], [10] * 4, 37)) == 49
    assert check_supply(config, 22, Past([], [10] * 4, 10)) == 22


def test_a_regime_never_runs_short_in_silence() -> None:
    inputs = inputs_of(MixingConfig(), 1, 10, np.arange(12), 10, [10], 0.5, 1)
    with pytest.raises(UserError, match="5 real and 5 written blocks, but 2 and 10 are left"):
        regimes.replace(inputs)
    with pytest.raises(UserError, match="0 real and 10 written blocks, but 2 and 4 are left"):
        regimes.replace(inputs_of(MixingConfig(), 1, 10, np.arange(12), 10, [4], 0.0, 1))


def test_a_samples_folder_from_a_stranger_is_not_mapped(tmp_path) -> None:
    folder = tmp_path / "samples"
    for dtype, shard in (("O", "tokens-00000.bin"), ("<u2", "../../secret"), ("|V8", "tokens-00000.bin")):
        folder.mkdir(exist_ok=True)
        write_json(folder / "meta.json", {"dtype": dtype, "shards": [shard]})
        with pytest.raises(UserError, match="not written by this lab"):
            mixing.read_samples(folder)

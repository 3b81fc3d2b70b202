"""Numbers and names of sources of text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collapselab.mixing.sources import (
    NAME,
    PROMPTS,
    REAL,
    in_place_of,
    is_real,
    name_of,
    reading_order,
    stand_in,
    written_by,
)

GENERATION = st.integers(0, 10**5)  # as many as a chain may have


@given(GENERATION)
def test_a_name_leads_back_to_its_generation(generation: int) -> None:
    written, controlled = name_of(generation), name_of(stand_in(generation))
    assert (written, controlled) == (f"generation_{generation}", f"control_{generation}")
    assert (written_by(written), in_place_of(written)) == (generation, None)
    assert (written_by(controlled), in_place_of(controlled)) == (None, generation)
    assert NAME.fullmatch(written) and NAME.fullmatch(controlled)


@given(GENERATION)
def test_the_numbers_of_stand_ins_are_real_text_and_nobody_elses(generation: int) -> None:
    assert stand_in(stand_in(generation)) == generation
    assert stand_in(generation) < REAL and is_real(stand_in(generation)) and not is_real(generation)
    assert is_real(np.array([generation, REAL, stand_in(generation)])).tolist() == [False, True, True]


@pytest.mark.parametrize("name", ["real", *PROMPTS.values()])
def test_real_text_and_prompts_have_no_generation(name: str) -> None:
    assert NAME.fullmatch(name) and written_by(name) is None and in_place_of(name) is None


def test_real_text_is_one_source() -> None:
    assert name_of(REAL) == "real" and is_real(REAL)


@pytest.mark.parametrize(
    "name", ["", "generation_", "generation_-1", "generation_1234567", "generation_3@b", "control_x", "prompt_", "Real"]
)
def test_other_names_are_no_sources(name: str) -> None:
    assert NAME.fullmatch(name) is None and written_by(name) is None and in_place_of(name) is None


def test_readers_see_real_text_first_and_the_newest_generation_last() -> None:
    names = ["real", "prompt_real", "prompt_previous", "control_0", "control_11", "generation_2", "generation_10"]
    backwards = names[::-1]
    assert sorted(backwards, key=reading_order) == names

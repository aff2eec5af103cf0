"""Draws: which attribute an edit gets, the same for ever, each of a list equally often."""

from collections import Counter
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen.edit.attributes.attribute import Attribute
from gen.edit.attributes.draw import ClassAttributes, draw_attribute, draw_attributes, most_apart

SEEDS = st.integers(-(2**63), 2**63 - 1)
CLASS_IDS = st.integers(0, 2**31 - 1)


def of(sizes: Sequence[int], class_id: int = 3) -> ClassAttributes:
    """A class with cells of these sizes; sides take turns, infeasible first, if there are several."""
    cells = [
        tuple(
            Attribute(
                kind="background",
                feasible=len(sizes) == 1 or cell % 2 == 1,
                name=f"place {cell} {number}",
                text="somewhere",
                weight=1.2,
                source="lexicon:mine",
            )
            for number in range(size)
        )
        for cell, size in enumerate(sizes)
    ]
    return ClassAttributes(class_id, tuple(cells))


def by_fold(num_sources: int, num_draws: int) -> Iterator[tuple[int, int]]:
    return ((source, draw) for draw in range(num_draws) for source in range(num_sources))


def by_source(num_sources: int, num_draws: int) -> Iterator[tuple[int, int]]:
    return ((source, draw) for source in range(num_sources) for draw in range(num_draws))


@given(st.integers(1, 60), st.integers(0, 200), st.integers(0, 500), SEEDS, CLASS_IDS)
def test_a_source_gets_each_attribute_equally_often_within_one_in_every_prefix(
    size: int, count: int, source: int, seed: int, class_id: int
) -> None:
    used: Counter[str] = Counter()
    for number, one in enumerate(draw_attributes(of([size], class_id), seed, source, count)):
        used[one.name] += 1
        assert max(used.values()) - (min(used.values()) if len(used) == size else 0) <= 1
        assert used[one.name] == number // size + 1


@given(st.integers(1, 60), st.integers(0, 100), st.integers(0, 100), st.integers(0, 500), SEEDS)
def test_more_draws_change_no_earlier_one(size: int, fewer: int, more: int, source: int, seed: int) -> None:
    first = draw_attributes(of([size]), seed, source, fewer)
    assert draw_attributes(of([size]), seed, source, fewer + more)[:fewer] == first
    assert first == [draw_attribute(of([size]), seed, source, draw) for draw in range(fewer)]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(1, 60), st.integers(1, 40), SEEDS)
@settings(max_examples=30, deadline=None)
def test_the_sources_of_a_class_use_each_attribute_about_equally_often_in_every_prefix(
    sizes: list[int], num_sources: int, num_draws: int, seed: int
) -> None:
    attributes = of(sizes)
    for order in (by_fold, by_source):
        used = {one.name: 0 for cell in attributes.cells for one in cell}
        for source, draw in order(num_sources, num_draws):
            used[draw_attribute(attributes, seed, source, draw).name] += 1
            for cell in attributes.cells:
                counts = [used[one.name] for one in cell]
                assert max(counts) - min(counts) <= most_apart(attributes)


def test_the_bound_does_not_grow_with_the_number_of_images() -> None:
    assert most_apart(of([40])) == 7
    assert most_apart(of([1])) == 1
    assert most_apart(of([40, 40])) == 14


@pytest.mark.parametrize("size", [1, 2, 3, 5, 13, 40, 64, 85, 100])
def test_whole_blocks_of_sources_use_each_attribute_exactly_equally_often(size: int) -> None:
    used = Counter(draw_attribute(of([size]), 0, *pair).name for pair in by_fold(2 * size, 5))
    assert set(used.values()) == {10}
    assert len(used) == size


@pytest.mark.parametrize("size", [*range(1, 34), 43, 85, 107, 128, 129, 171])
def test_the_bound_holds_for_every_number_of_sources_and_draws(size: int) -> None:
    attributes = of([size])
    for num_sources in range(1, size, max(1, size // 17)):
        used = dict.fromkeys([one.name for one in attributes.cells[0]], 0)
        for draw in range(size):
            for source in range(num_sources):
                used[draw_attribute(attributes, 1, source, draw).name] += 1
            assert max(used.values()) - min(used.values()) < most_apart(attributes)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 12), st.integers(1, 7), SEEDS)
@settings(max_examples=40, deadline=None)
def test_a_mix_of_both_sides_has_half_of_each_within_one_and_the_odd_one_is_infeasible(
    first: int, second: int, num_sources: int, num_draws: int, seed: int
) -> None:
    for order in (by_fold, by_source):
        sides = [draw_attribute(of([first, second]), seed, *pair).feasible for pair in order(num_sources, num_draws)]
        assert all(abs(2 * sum(sides[:end]) - end) <= 1 for end in range(len(sides) + 1))
        assert sum(sides) == len(sides) // 2


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 50), SEEDS)
def test_a_mix_repeats_nothing_within_a_source_before_a_side_is_used_up(
    first: int, second: int, source: int, seed: int
) -> None:
    drawn = draw_attributes(of([first, second]), seed, source, 2 * min(first, second))
    assert len({one.name for one in drawn}) == len(drawn)


def test_another_seed_class_or_source_draws_in_another_order() -> None:
    orders = {
        tuple(one.name for one in draw_attributes(of([30], class_id), seed, source, 30))
        for seed in (0, 1)
        for class_id in (3, 4)
        for source in (0, 1, 30)
    }
    assert len(orders) == 12


def test_the_draws_of_one_version_stay_those_of_the_next() -> None:
    drawn = [one.name for one in draw_attributes(of([10]), 7, 11, 6)]
    assert drawn == [f"place 0 {number}" for number in (4, 1, 7, 6, 8, 0)]


@pytest.mark.parametrize("sizes", [[], [3, 0], [1] * 17])
def test_cells_that_cannot_take_turns_are_refused(sizes: list[int]) -> None:
    with pytest.raises(ValueError, match="attributes of class 3: found cells of"):
        of(sizes)


def test_a_negative_place_is_refused() -> None:
    with pytest.raises(ValueError, match="found source -1 and draw 0, expected numbers from 0"):
        draw_attribute(of([3]), 0, -1, 0)

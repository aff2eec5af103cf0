"""What lies on a device of limited room: an account of moves, against networks that only remember where they are."""

import random
from dataclasses import dataclass

import pytest

from gen.edit.editors.shelf import Movable, Shelf
from gen.model.folder import ModelError

DEVICE = "the device"


@dataclass
class Block:
    """A network of so many bytes."""

    size: int
    where: str = "cpu"

    def to(self, where: str) -> "Block":
        self.where = where
        return self


def shelf_of(budget: int | None, sizes: dict[str, int]) -> tuple[Shelf, dict[str, Block], list[tuple[int, str]]]:
    moves: list[tuple[int, str]] = []

    def move(network: Movable, where: str) -> None:
        assert isinstance(network, Block)
        moves.append((network.size, where))
        network.to(where)

    shelf = Shelf(DEVICE, budget, move)
    blocks = {name: Block(size) for name, size in sizes.items()}
    for name, block in blocks.items():
        shelf.put(name, [block], block.size)
    return shelf, blocks, moves


def test_two_editors_with_room_for_one_take_turns_and_the_other_waits_in_memory() -> None:
    shelf, blocks, moves = shelf_of(10, {"inpaint": 8, "control": 7})
    for name in ("inpaint", "inpaint", "control", "inpaint"):
        shelf.bring(name)
    assert moves == [(8, DEVICE), (8, "cpu"), (7, DEVICE), (7, "cpu"), (8, DEVICE)]
    assert (blocks["inpaint"].where, blocks["control"].where) == (DEVICE, "cpu")


def test_without_a_budget_each_network_moves_once() -> None:
    shelf, _, moves = shelf_of(None, {"inpaint": 8, "control": 7})
    for name in ("inpaint", "control", "inpaint", "control"):
        shelf.bring(name)
    assert moves == [(8, DEVICE), (7, DEVICE)]


def test_the_longest_unused_makes_room_and_no_more_of_them_than_needed() -> None:
    shelf, blocks, _ = shelf_of(10, {"a": 3, "b": 3, "c": 3, "d": 4})
    for name in ("a", "b", "c", "a", "d"):
        shelf.bring(name)
    assert {name: block.where for name, block in blocks.items()} == {"a": DEVICE, "b": "cpu", "c": DEVICE, "d": DEVICE}


def test_what_lies_there_already_is_not_moved_until_it_makes_room() -> None:
    shelf, _, moves = shelf_of(10, {"control": 7})
    there = Block(6, DEVICE)
    shelf.put("generator", [there], 6, is_there=True)
    shelf.bring("generator")
    assert moves == []
    shelf.bring("control")
    assert there.where == "cpu"


def test_a_group_moves_together() -> None:
    shelf, _, _ = shelf_of(10, {"control": 7})
    pair = [Block(3), Block(5)]
    shelf.put("generator", pair, 8)
    shelf.bring("generator")
    assert {block.where for block in pair} == {DEVICE}
    shelf.bring("control")
    assert {block.where for block in pair} == {"cpu"}


def test_what_can_never_fit_is_refused_in_one_line() -> None:
    shelf, _, _ = shelf_of(1 << 30, {})
    with pytest.raises(ModelError, match=r"edit\.editor\.device_gib: found 1\.1 GB, expected at least 2\.1 GB") as told:
        shelf.put("FLUX", [Block(2 << 30)], 2 << 30)
    assert "\n" not in str(told.value)


def test_on_a_cpu_nothing_moves_and_no_budget_is_too_small() -> None:
    block = Block(8)
    shelf = Shelf("cpu", 1)
    shelf.put("inpaint", [block], 8)
    shelf.bring("inpaint")
    assert block.where == "cpu"


def test_whatever_is_asked_for_is_there_and_the_rest_is_within_the_budget() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(50):
        sizes = {f"network {number}": rng.randint(1, 9) for number in range(rng.randint(1, 8))}
        budget = rng.randint(max(sizes.values()), 30)
        shelf, blocks, moves = shelf_of(budget, sizes)
        for _ in range(60):
            name = rng.choice(list(sizes))
            before, was = len(moves), blocks[name].where
            shelf.bring(name)
            assert blocks[name].where == DEVICE
            assert sum(block.size for block in blocks.values() if block.where == DEVICE) <= budget
            assert was == "cpu" or len(moves) == before

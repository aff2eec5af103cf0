"""The quarantine: each incident has a folder of its own, however many there are."""

import json
from pathlib import Path

from shards.disk.store import FolderStore
from shards.set.quarantine import QUARANTINE, set_aside


class Counting(FolderStore):
    """Counts the questions whether a file is there: on an object store each is a request."""

    asked = 0

    def exists(self, name: str) -> bool:
        self.asked += 1
        return super().exists(name)


def incident(store: FolderStore, number: int) -> str:
    """The folder that a file is set aside in."""
    store.replace(f"_meta/{number}.json", b"damaged")
    [moved] = set_aside(store, [f"_meta/{number}.json"], f"reason {number}")
    return moved.split("/")[-2]


def test_a_hundred_incidents_ask_once_each_for_their_number(tmp_path: Path) -> None:
    store = Counting(tmp_path)
    assert [incident(store, number) for number in range(100)] == [f"{number:06d}" for number in range(1, 101)]
    assert store.asked == 100
    assert json.loads(store.read_bytes(f"{QUARANTINE}/000100/reason.json"))["reason"] == "reason 99"


def test_an_incident_comes_behind_the_highest_number_whatever_was_taken_away_or_put_there(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    for name in ("000007", "my notes", "12345678"):
        (tmp_path / QUARANTINE / name).mkdir(parents=True)
    assert incident(store, 1) == "000008"

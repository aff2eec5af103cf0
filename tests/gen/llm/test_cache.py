"""The file of answers: what is in it stays, what is not ours is left alone."""

import sqlite3
import threading
from pathlib import Path

import pytest

from gen.llm.cache import MAX_FAILURES, LlmCache
from gen.llm.call import LlmError
from shards.disk.safe_text import visible
from tests.support.hostile_text import PAYLOADS


def clock() -> float:
    return 1_700_000_000.0


def test_what_was_put_first_is_got_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "c.sqlite"
    one, other = LlmCache(path, clock), LlmCache(path, clock)
    assert one.get("k") is None
    assert one.put("k", "1", "test", "here") == "1"
    assert other.put("k", "2", "test", "there") == "1"
    one.close()
    other.close()
    again = LlmCache(path, clock)
    assert again.get("k") == "1"
    again.close()


def test_an_answer_is_on_the_disk_when_put_returns(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    cache = LlmCache(path, clock)
    cache.put("k", '{"a":1}', "test", "here")
    reader = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    assert reader.execute("SELECT * FROM answers").fetchall() == [("k", '{"a":1}', "test", "here", clock())]
    reader.close()
    cache.close()


def test_failures_are_kept_escaped_and_short_and_the_oldest_go(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    cache = LlmCache(path, clock)
    for number, text in enumerate([*PAYLOADS, "x" * 10_000_000, "\x00\x1b[2J\r\n"]):
        cache.put_failure("k", "test", number, "not_json", text)
    cache.close()
    database = sqlite3.connect(path)
    kept = [row[0] for row in database.execute("SELECT excerpt FROM failures ORDER BY id")]
    assert len(kept) == len(PAYLOADS) + 2
    assert all(len(text) <= 200 and visible(text) == text for text in kept)
    assert kept[-1] == "⟨U+0000⟩⟨U+001B⟩[2J"
    database.execute("UPDATE failures SET id = ? WHERE id = (SELECT max(id) FROM failures)", (MAX_FAILURES + 5,))
    database.commit()
    database.close()
    LlmCache(path, clock).close()
    database = sqlite3.connect(path)
    assert database.execute("SELECT min(id) FROM failures").fetchone() == (6,)
    database.close()


def test_many_threads_and_two_connections_lose_nothing(tmp_path: Path) -> None:
    caches = [LlmCache(tmp_path / "c.sqlite", clock) for _ in range(2)]

    def put(number: int) -> None:
        for key in range(20):
            caches[number % 2].put(f"{number}/{key}", str(key), "test", "here")

    threads = [threading.Thread(target=put, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert [caches[1].get(f"{number}/{key}") for number in range(6) for key in range(20)] == [
        str(key) for _ in range(6) for key in range(20)
    ]
    for cache in caches:
        cache.close()


def test_a_new_file_may_be_opened_by_many_at_once(tmp_path: Path) -> None:
    opened: list[LlmCache] = []
    gate = threading.Barrier(8)

    def go() -> None:
        gate.wait(timeout=60)
        opened.append(LlmCache(tmp_path / "c.sqlite", clock))

    threads = [threading.Thread(target=go) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(opened) == 8
    for cache in opened:
        cache.close()


def foreign(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE bookmarks (address TEXT)")
    database.commit()
    database.close()


def newer(path: Path) -> None:
    LlmCache(path, clock).close()
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 99")
    database.close()


def damaged(path: Path) -> None:
    LlmCache(path, clock).close()
    whole = bytearray(path.read_bytes())
    whole[20:2000] = b"\xff" * 1980
    path.write_bytes(whole)


@pytest.mark.parametrize(
    "spoil", [foreign, newer, damaged, lambda path: path.write_text("a diary\n" * 400), lambda path: path.mkdir()]
)
def test_a_file_that_is_not_ours_is_refused_in_one_line_and_left_as_it_is(spoil, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "c.sqlite"
    spoil(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(LlmError, match=r"^llm\.cache .*c\.sqlite: found .*expected|a cache of answers") as caught:
        LlmCache(path, clock)
    assert "\n" not in str(caught.value)
    assert "llm.cache" in str(caught.value)
    assert (path.read_bytes() if path.is_file() else None) == before

"""A list of blocked rows that grows counts at once, whoever lets it grow, and loses no line."""

import subprocess
import sys
from pathlib import Path

import pytest

from retrieve.serve.block_list import BlockList
from shards.disk.home import home

HASH = "ab" * 32


def test_a_line_that_is_added_counts_at_once_and_stands_in_the_file_once(tmp_path: Path) -> None:
    own = tmp_path / "new" / "blocked.txt"
    blocks = BlockList([], own, 0.5)
    assert not blocks.current().hashes
    assert blocks.add([HASH, "https://a/1", HASH]) == 2
    assert blocks.add(["https://a/1", "https://a/2"]) == 1
    assert blocks.current().hashes == {HASH}
    assert own.read_text() == f"{HASH}\nhttps://a/1\nhttps://a/2\n"


def test_what_people_wrote_into_the_list_stays(tmp_path: Path) -> None:
    own = tmp_path / "blocked.txt"
    own.write_text("# bad ones\nhttps://a/1")
    blocks = BlockList([], own, 0.5)
    blocks.add(["https://a/2"])
    assert own.read_text() == "# bad ones\nhttps://a/1\nhttps://a/2\n"
    assert blocks.current().urls == {"https://a/1", "https://a/2"}


def test_the_byte_order_mark_of_a_list_is_no_part_of_its_first_line(tmp_path: Path) -> None:
    own = tmp_path / "blocked.txt"
    own.write_bytes(b"\xef\xbb\xbfhttps://a/1\n")
    blocks = BlockList([], own, 0.5)
    assert blocks.add(["https://a/1", "https://a/2"]) == 1
    assert blocks.current().urls == {"https://a/1", "https://a/2"}


def test_what_others_add_to_a_list_counts_and_what_they_take_out_counts_until_the_end(tmp_path: Path) -> None:
    given, own = tmp_path / "given.txt", tmp_path / "own.txt"
    given.write_text("https://a/1\n")
    blocks = BlockList([given], own, 0.5)
    BlockList([], own, 0.5).add([HASH])
    assert blocks.current().hashes == {HASH}
    given.write_text("https://a/2\nhttps://a/3\n")
    own.unlink()
    assert blocks.current().urls == {"https://a/1", "https://a/2", "https://a/3"}
    assert blocks.current().hashes == {HASH}


def test_a_list_that_was_damaged_is_told_at_every_question(tmp_path: Path) -> None:
    own = tmp_path / "blocked.txt"
    blocks = BlockList([], own, 0.5)
    blocks.add([HASH])
    own.write_text("neither an address nor a hash\n")
    for _ in range(2):
        with pytest.raises(ValueError, match="line 1: found 'neither an address"):
            blocks.current()
    own.write_text("https://a/1\n")
    assert blocks.current().hashes == {HASH}


def test_servers_that_share_a_list_lose_no_line(tmp_path: Path) -> None:
    own = tmp_path / "blocked.txt"
    code = (
        "import sys, threading; from pathlib import Path; from retrieve.serve.block_list import BlockList\n"
        "def add(name):\n"
        "    one = BlockList([], Path(sys.argv[1]), 0.5)\n"
        "    for place in range(10): one.add([f'https://{name}/{place}'])\n"
        "threads = [threading.Thread(target=add, args=(f'{sys.argv[2]}-{name}',)) for name in 'ab']\n"
        "[one.start() for one in threads], [one.join(60) for one in threads]"
    )
    servers = [subprocess.Popen([sys.executable, "-c", code, str(own), str(number)], cwd=home()) for number in range(2)]
    assert [one.wait(timeout=120) for one in servers] == [0, 0]
    lines = [f"https://{number}-{name}/{place}" for number in range(2) for name in "ab" for place in range(10)]
    assert sorted(own.read_text().splitlines()) == sorted(lines)


def test_a_list_that_must_be_there_and_is_not_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"missing\.txt: No such file"):
        BlockList([tmp_path / "missing.txt"], None, 0.5)
    with pytest.raises(ValueError, match="--block-list"):
        BlockList([], None, 0.5).add([HASH])
    (tmp_path / "link.txt").symlink_to(tmp_path / "file.txt")
    with pytest.raises(ValueError, match="found a link, expected a file"):
        BlockList([], tmp_path / "link.txt", 0.5)

"""Pictures by row number: from maps, by ranges, from a bounded cache; slow, broken and full storage."""

import contextlib
import fcntl
import hashlib
import os
import resource
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from shards.disk.home import home
from shards.disk.lock import remove_if_free
from shards.disk.object_store import ObjectStore
from shards.disk.store import FolderStore
from shards.stream.fetch import Fetcher, FetchError
from shards.stream.index import load_index
from shards.stream.index_arrays import Index
from shards.stream.tar_cache import TarCache
from tests.support.small_data_set import write_data_set

REPO = home()
NUM_TARS = 4
ROWS = np.arange(10 * NUM_TARS)


class RemoteFiles:
    """The part of an fsspec file system that reading needs, over a local folder; `before` may wait or raise."""

    def __init__(self, folder: Path, before: Callable[[str, int], None] = lambda name, turn: None) -> None:
        self.folder = folder
        self.before = before
        self.requests: Counter[str] = Counter()
        self.running_bytes = 0
        self.most_running_bytes = 0
        self.lock = threading.Lock()

    def invalidate_cache(self) -> None:
        """Nothing is cached."""

    def info(self, path: str) -> dict[str, int]:
        return {"size": (self.folder / path.rpartition("/")[2]).stat().st_size}

    def cat_file(self, path: str, start: int, end: int) -> bytes:
        name = path.rpartition("/")[2]
        with self.lock:
            self.requests[name] += 1
            turn = self.requests[name]
            self.running_bytes += end - start
            self.most_running_bytes = max(self.most_running_bytes, self.running_bytes)
        try:
            self.before(name, turn)
            with (self.folder / name).open("rb") as file:
                file.seek(start)
                return file.read(end - start)
        finally:
            with self.lock:
                self.running_bytes -= end - start


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return write_data_set(tmp_path / "ours", NUM_TARS)


@pytest.fixture
def index(store: FolderStore) -> Index:
    return load_index(store.url)


def remote(files: RemoteFiles) -> ObjectStore:
    return ObjectStore(files, "bucket", "fake://bucket", single_writer=False, read_only=True)


def expected(store: FolderStore, index: Index) -> list[bytes]:
    tars = index.tar_of(np.arange(len(index)))
    return [
        store.path(index.tars[tar]).read_bytes()[offset : offset + size]
        for tar, offset, size in zip(tars.tolist(), index.offset.tolist(), index.size.tolist(), strict=True)
    ]


def read_all(fetcher: Fetcher) -> list[bytes]:
    return [bytes(fetcher.read(row)) for row in range(len(fetcher.index))]


def soon(condition: Callable[[], bool], deadline_s: float = 60.0) -> bool:
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def until(event: threading.Event) -> None:
    assert event.wait(120)


def cached_bytes(folder: Path) -> int:
    total = 0
    for path in folder.glob("*.[tp]ar*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


# local


def test_local_pictures_are_read_in_place(store: FolderStore, index: Index) -> None:
    with Fetcher(index, store) as fetcher:
        assert read_all(fetcher) == expected(store, index)
        assert fetcher.counters() == {"bytes_local": int(index.size.sum())}


def test_threads_that_read_at_the_same_time_get_their_own_pictures(store: FolderStore, index: Index) -> None:
    """With so many tars that most are closed again before the next read of them."""
    wanted = expected(store, index)
    wrong: list[int] = []
    with Fetcher(index, store) as fetcher:

        def work(first: int) -> None:
            for turn in range(400):
                row = (first + 7 * turn) % len(index)
                data = fetcher.read(row)
                time.sleep(0)  # another thread reads meanwhile
                if bytes(data) != wanted[row]:
                    wrong.append(row)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_a_tar_that_is_cut_short_while_it_is_read_is_an_error_and_not_the_end(store: FolderStore, index: Index) -> None:
    with Fetcher(index, store) as fetcher:
        fetcher.read(0)
        os.truncate(store.path(index.tars[0]), int(index.offset[3]) + 10)
        with pytest.raises(FetchError, match=r"00000\.tar: the index names bytes behind its end") as error:
            fetcher.read(3)
        assert error.value.reason == "changed"
        assert bytes(fetcher.read(0)) == expected_first(store, index)


def flip_a_bit(store: FolderStore, index: Index, row: int) -> None:
    path = store.path(index.tars[int(index.tar_of(np.array([row]))[0])])
    with path.open("r+b") as file:
        file.seek(int(index.offset[row]) + int(index.size[row]) // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))


def damaged_rows(fetcher: Fetcher) -> list[int]:
    """The rows whose read says that the bytes are others than the table's hash."""
    found = []
    for row in range(len(fetcher.index)):
        with contextlib.suppress(FetchError):
            fetcher.read(row)
            continue
        with pytest.raises(FetchError, match=r"found other bytes than the table's hash at \d+; run `sixf") as error:
            fetcher.read(row)
        assert error.value.reason == "damaged"
        found.append(row)
    return found


@pytest.mark.parametrize("is_local", [True, False])
def test_d6_a_bit_that_is_flipped_in_a_picture_is_noticed_when_it_is_first_read(
    store: FolderStore, index: Index, is_local: bool
) -> None:
    """Most such pictures decode without a word; so the hash is compared, not the decoder asked."""
    rows = list(range(0, len(index), 3))
    for row in rows:
        flip_a_bit(store, index, row)
    with Fetcher(index, store if is_local else remote(RemoteFiles(store.root))) as fetcher:
        assert damaged_rows(fetcher) == rows
        assert damaged_rows(fetcher) == rows
        assert fetcher.counters()["damaged"] == 4 * len(rows)


def test_bytes_are_compared_at_the_first_read_at_each_or_never_as_asked(store: FolderStore, index: Index) -> None:
    with (
        Fetcher(index, store) as first,
        Fetcher(index, store, verify="always") as always,
        Fetcher(index, store, verify="never") as never,
    ):
        assert [damaged_rows(fetcher) for fetcher in (first, always, never)] == [[], [], []]
        flip_a_bit(store, index, 1)
        assert [damaged_rows(fetcher) for fetcher in (first, always, never)] == [[], [1], []]


def test_samples_that_came_while_reading_are_compared_too(store: FolderStore, index: Index) -> None:
    last = len(index) - 1
    flip_a_bit(store, index, last)
    with Fetcher(index.prefix(1), store) as fetcher:
        assert damaged_rows(fetcher) == []
        fetcher.grow(index)
        assert damaged_rows(fetcher) == [last]


def test_tars_beyond_the_bound_are_closed(store: FolderStore, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shards.stream.fetch.MAX_OPEN", 2)
    with Fetcher(index, store) as fetcher:
        assert read_all(fetcher) == expected(store, index)
        assert num_open_below(store.root) == 2
    assert num_open_below(store.root) == 0


def num_open_below(folder: Path) -> int:
    """Descriptors of this process; other threads open and close other files meanwhile."""
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += Path(os.readlink(link)).is_relative_to(folder.resolve())
    return found


def test_hints_cost_nothing_for_local_tars(store: FolderStore, index: Index) -> None:
    before = set(threading.enumerate())
    with Fetcher(index, store) as fetcher:
        fetcher.prefetch(ROWS)
        assert not set(threading.enumerate()) - before
        assert fetcher.counters() == {}


def test_a_local_tar_that_is_missing_or_another_one_is_named(store: FolderStore, index: Index) -> None:
    store.path("00001.tar").unlink()
    store.path("00002.tar").write_bytes(b"short")
    with Fetcher(index, store) as fetcher:
        with pytest.raises(FetchError, match=r"00001\.tar: the tar is missing; run `sixfold repair`") as missing:
            fetcher.read(10)
        with pytest.raises(
            FetchError, match=r"00002\.tar: found 5 bytes, the index says \d+; load the index"
        ) as changed:
            fetcher.read(20)
        assert (missing.value.reason, changed.value.reason) == ("missing", "changed")
        assert bytes(fetcher.read(0)) == expected_first(store, index)
        for row in (-1, len(index)):
            with pytest.raises(IndexError):
                fetcher.read(row)


def expected_first(store: FolderStore, index: Index) -> bytes:
    start, size = int(index.offset[0]), int(index.size[0])
    return store.path(index.tars[0]).read_bytes()[start : start + size]


# remote, by ranges


def test_remote_pictures_are_one_ranged_read_each(store: FolderStore, index: Index) -> None:
    files = RemoteFiles(store.root)
    with Fetcher(index, remote(files)) as fetcher:
        assert read_all(fetcher) == expected(store, index)
    assert sum(files.requests.values()) == len(index)


def test_hinted_rows_are_read_ahead_and_asked_for_once(store: FolderStore, index: Index) -> None:
    files = RemoteFiles(store.root)
    rows = ROWS[::-1].copy()
    with Fetcher(index, remote(files), threads=3) as fetcher:
        fetcher.prefetch(rows)
        fetcher.prefetch(rows[:5])
        assert soon(lambda: sum(files.requests.values()) == len(index))
        assert [bytes(fetcher.read(int(row))) for row in rows] == expected(store, index)[::-1]
        assert sum(files.requests.values()) == len(index)
        assert fetcher.counters()["reads_ahead"] == len(index)


def test_d16_what_is_read_ahead_is_bounded_in_bytes_and_threads(store: FolderStore, index: Index) -> None:
    """A consumer that never comes: the store is asked for no more than the bound, two reads at a time."""
    files = RemoteFiles(store.root, lambda name, turn: time.sleep(0.01))
    bound = int(index.size[:7].sum())
    with Fetcher(index, remote(files), threads=2, max_ahead_bytes=bound) as fetcher:
        for _ in range(20):
            fetcher.prefetch(ROWS)
        assert soon(lambda: sum(files.requests.values()) == 7)
        time.sleep(0.1)
        assert sum(files.requests.values()) == 7
        assert files.most_running_bytes <= 2 * int(index.size.max())
        assert fetcher.counters()["hints_left"] == 20 * (len(index) - 7)
        assert read_all(fetcher) == expected(store, index)
        fetcher.prefetch(ROWS[:7])
        assert soon(lambda: sum(files.requests.values()) == len(index) + 7), "what was read makes room for new hints"


def test_d16_a_store_that_does_not_answer_is_an_error_in_time(store: FolderStore, index: Index) -> None:
    stuck = threading.Event()
    files = RemoteFiles(store.root, lambda name, turn: until(stuck))
    with Fetcher(index, remote(files), deadline_s=0.2) as fetcher:
        fetcher.prefetch(ROWS[:1])
        start = time.monotonic()
        for row in (0, 1):  # hinted and not
            with pytest.raises(TimeoutError, match=r"fake://bucket/00000\.tar: no answer in 0\.2 s"):
                fetcher.read(row)
        assert time.monotonic() - start < 30
        assert fetcher.counters()["timeouts"] == 2
    stuck.set()


def test_d16_a_stuck_read_does_not_hold_up_the_end_of_the_process(store: FolderStore) -> None:
    code = (
        "import sys, time\n"
        "from shards.stream.fetch import Fetcher\n"
        "from shards.stream.index import load_index\n"
        "from shards.disk.object_store import ObjectStore\n"
        "class Stuck:\n"
        "    def cat_file(self, path, start, end): time.sleep(600)\n"
        "index = load_index(sys.argv[1])\n"
        "fetcher = Fetcher(index, ObjectStore(Stuck(), 'b', 'fake://b', False), deadline_s=0.1)\n"
        "try:\n"
        "    fetcher.read(0)\n"
        "except TimeoutError:\n"
        "    print('timeout')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, store.url], cwd=REPO, capture_output=True, text=True, timeout=200, check=True
    )
    assert done.stdout == "timeout\n"


def test_a_read_that_fails_now_and_then_is_tried_again(store: FolderStore, index: Index) -> None:
    def sometimes(name: str, turn: int) -> None:
        if turn % 3:
            raise ConnectionResetError("gone")

    with Fetcher(index.prefix(1), remote(RemoteFiles(store.root, sometimes)), threads=1) as fetcher:
        assert bytes(fetcher.read(4)) == expected(store, index)[4]
        assert fetcher.counters()["retries"] == 2


def test_an_outage_shorter_than_the_deadline_changes_nothing(
    store: FolderStore, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shards.stream.fetch.FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr("shards.stream.fetch.LONGEST_PAUSE_S", 0.004)

    def outage(name: str, turn: int) -> None:
        if turn <= 100:
            raise ConnectionResetError("gone")

    with Fetcher(index, remote(RemoteFiles(store.root, outage)), threads=4) as fetcher:
        fetcher.prefetch(ROWS[:10])
        assert read_all(fetcher) == expected(store, index)
        assert fetcher.counters()["retries"] == 100 * NUM_TARS


def test_a_fetcher_that_is_closed_in_an_outage_asks_no_more(store: FolderStore, index: Index) -> None:
    def never(name: str, turn: int) -> None:
        raise ConnectionResetError("gone")

    before, files = set(threading.enumerate()), RemoteFiles(store.root, never)
    with Fetcher(index, remote(files), deadline_s=300.0) as fetcher:
        fetcher.prefetch(ROWS[:3])
        assert soon(lambda: files.requests["00000.tar"] >= 3)
    assert when_its_threads_have_ended(before)


def test_a_read_that_always_fails_is_an_error_without_credentials(store: FolderStore, index: Index) -> None:
    def never(name: str, turn: int) -> None:
        raise RuntimeError("403 at https://me:secret@host/x?token=secret\nbody")

    files = RemoteFiles(store.root, never)
    with Fetcher(index, remote(files), deadline_s=0.5) as fetcher, pytest.raises(TimeoutError) as error:
        fetcher.read(0)
    assert str(error.value).startswith("fake://bucket/00000.tar: failed for 0.5 s (403 at https://host/x")
    assert str(error.value).endswith("; check the store, or allow more time (deadline_s)")
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)
    assert files.requests["00000.tar"] == 3, "after pauses of 0.1 and 0.2 s one of 0.4 s has no room"


@pytest.mark.parametrize("hinted", [False, True], ids=["read", "read ahead"])
def test_a_read_that_is_not_allowed_is_asked_for_once(store: FolderStore, index: Index, hinted: bool) -> None:
    def refuse(name: str, turn: int) -> None:
        raise PermissionError("Access Denied for https://me:secret@host/x")

    files = RemoteFiles(store.root, refuse)
    with Fetcher(index, remote(files), deadline_s=300.0) as fetcher:
        if hinted:
            fetcher.prefetch(ROWS[:1])
        with pytest.raises(PermissionError) as error:
            fetcher.read(0)
    assert str(error.value) == (
        "fake://bucket/00000.tar: the store refuses to let it be read (Access Denied for https://host/x); check the "
        "credentials in the environment, and who may read the data set"
    )
    assert files.requests == {"00000.tar": 1}


def test_a_remote_tar_that_is_missing_or_cut_short_is_named(store: FolderStore, index: Index) -> None:
    store.path("00001.tar").unlink()
    store.path("00002.tar").write_bytes(b"short")
    files = RemoteFiles(store.root)
    with Fetcher(index, remote(files)) as fetcher:
        with pytest.raises(FetchError, match="the tar is missing") as missing:
            fetcher.read(10)
        with pytest.raises(FetchError, match=r"00002\.tar: found 5 bytes, the index says \d+; load the index") as short:
            fetcher.read(20)
    assert (missing.value.reason, short.value.reason) == ("missing", "changed")
    assert files.requests == {"00001.tar": 1, "00002.tar": 1}


# remote, through the cache


def filled(fetcher: Fetcher) -> list[bytes]:
    """All rows, hinted tar by tar as a stream would."""
    data = []
    for start in range(0, len(fetcher.index), 5):
        rows = np.arange(start, start + 5)
        fetcher.prefetch(rows)
        data += [bytes(fetcher.read(int(row))) for row in rows]
    return data


def test_hinted_tars_are_fetched_whole_and_kept_for_the_next_run(
    tmp_path: Path, store: FolderStore, index: Index
) -> None:
    cache = tmp_path / "cache"
    with Fetcher(index, remote(RemoteFiles(store.root)), cache, 1 << 20) as fetcher:
        assert filled(fetcher) == expected(store, index)
        assert soon(lambda: fetcher.counters().get("bytes_downloaded", 0) == index.tar_bytes.sum())
        assert soon(lambda: checked(cache, NUM_TARS))
    assert cached_tars(cache) == sorted(index.tar_sha256)
    files = RemoteFiles(store.root)
    with Fetcher(index, remote(files), cache, 1 << 20) as fetcher:
        assert filled(fetcher) == expected(store, index)
        assert fetcher.counters() == {"bytes_local": int(index.size.sum())}
    assert not files.requests


def test_tars_that_come_later_are_fetched_ahead_as_far_as_they_fit(
    tmp_path: Path, store: FolderStore, index: Index
) -> None:
    """A cache for three tars: one in use, two ahead, and no third."""
    cache = tmp_path / "cache"
    limit = int(index.tar_bytes[:3].sum()) + 1000
    with Fetcher(index, remote(RemoteFiles(store.root)), cache, limit) as fetcher:
        for _ in range(5):
            fetcher.prefetch(ROWS[:10], np.array([1, 2, 3]))
            read_some(fetcher, range(10))
        assert soon(lambda: cached_tars(cache) == sorted(index.tar_sha256[:3]) and not fetcher._coming)
        assert "cache_full" not in fetcher.counters()
        asked = fetcher.counters().get("bytes_ranged", 0)
        fetcher.prefetch(ROWS[10:20])
        assert read_some(fetcher, range(10, 20)) == expected(store, index)[10:20]
        assert fetcher.counters().get("bytes_ranged", 0) == asked, "the next window begins without a request"
    with Fetcher(index, remote(RemoteFiles(store.root)), tmp_path / "shared", limit, sharers=3) as fetcher:
        fetcher.prefetch(ROWS[:10], np.array([1, 2, 3]))
        read_some(fetcher, range(10))
        assert soon(lambda: cached_tars(tmp_path / "shared") == [index.tar_sha256[0]])
        time.sleep(0.1)
        assert cached_tars(tmp_path / "shared") == [index.tar_sha256[0]], "the others have their share"


def test_a_tar_that_found_no_room_ahead_is_fetched_when_its_turn_comes(
    tmp_path: Path, store: FolderStore, index: Index
) -> None:
    """Another run holds the room while the tar is only coming, and lets it go."""
    cache = tmp_path / "cache"
    limit = int(index.tar_bytes[:2].sum()) + 1000
    with Fetcher(index, remote(RemoteFiles(store.root)), cache, limit) as other:
        other.prefetch(ROWS[20:30])
        assert soon(lambda: cached_tars(cache) == [index.tar_sha256[2]] and not other._coming)
        with Fetcher(index, remote(RemoteFiles(store.root)), cache, limit) as fetcher:
            fetcher.prefetch(ROWS[:10])
            assert soon(lambda: len(cached_tars(cache)) == 2 and not fetcher._coming)
            fetcher.prefetch(ROWS[:10], np.array([1]))
            assert soon(lambda: fetcher.counters().get("cache_full", 0) == 1 and not fetcher._coming)
            kept = sorted([index.tar_sha256[0], index.tar_sha256[2]])
            assert soon(lambda: cached_tars(cache) == kept), "what others read stays"
            other.close()
            fetcher.prefetch(ROWS[10:20])
            assert soon(lambda: index.tar_sha256[1] in cached_tars(cache))


def read_some(fetcher: Fetcher, rows: range) -> list[bytes]:
    return [bytes(fetcher.read(row)) for row in rows]


def cached_tars(cache: Path) -> list[str]:
    return sorted(path.stem for path in cache.glob("*.tar"))


def checked(cache: Path, count: int) -> bool:
    """Whether so many tars are there for the next run: with the note that they were hashed, which comes last."""
    return len(list(cache.glob("*.checked"))) == count


def test_a_row_that_was_not_hinted_fetches_no_tar(tmp_path: Path, store: FolderStore, index: Index) -> None:
    with Fetcher(index, remote(RemoteFiles(store.root)), tmp_path / "cache", 1 << 20) as fetcher:
        assert bytes(fetcher.read(17)) == expected(store, index)[17]
        assert fetcher.counters() == {"bytes_ranged": int(index.size[17])}
    assert cached_bytes(tmp_path / "cache") == 0


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_d17_a_damaged_copy_is_fetched_again(tmp_path: Path, store: FolderStore, index: Index, damage: str) -> None:
    cache = tmp_path / "cache"
    files = RemoteFiles(store.root)
    with Fetcher(index, remote(files), cache, 1 << 20) as fetcher:
        filled(fetcher)
        assert soon(lambda: checked(cache, NUM_TARS))
    copy = cache / f"{index.tar_sha256[2]}.tar"
    good = copy.read_bytes()
    copy.write_bytes(
        {"flip": good[:900] + bytes([good[900] ^ 1]) + good[901:], "cut": good[:900], "empty": b""}[damage]
    )
    with Fetcher(index, remote(files), cache, 1 << 20) as fetcher:
        assert filled(fetcher) == expected(store, index)
        assert soon(lambda: fetcher.counters().get("bytes_downloaded", 0) == index.tar_bytes[2])
        assert fetcher.counters()["cache_corrupt"] == 1
        assert soon(lambda: copy.is_file() and copy.read_bytes() == good)


@pytest.mark.parametrize("change", ["none", "old", "restart"])
def test_a_copy_is_hashed_once_a_day_and_after_a_restart(
    tmp_path: Path, store: FolderStore, index: Index, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen by a bit that flips without a change of the file's time, as bad storage would."""
    cache = tmp_path / "cache"
    one = index.prefix(1)
    with Fetcher(one, remote(RemoteFiles(store.root)), cache, 1 << 20) as fetcher:
        fetcher.prefetch(ROWS[:10])
        assert soon(lambda: checked(cache, 1))
    copy = cache / f"{index.tar_sha256[0]}.tar"
    marker, stat, data = copy.with_suffix(".checked"), copy.stat(), bytearray(copy.read_bytes())
    data[900] ^= 1
    with copy.open("r+b") as file:
        file.write(data)
    os.utime(copy, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    if change == "old":
        os.utime(marker, (time.time() - 2 * 86_400,) * 2)
    elif change == "restart":
        other = tmp_path / "boot_id"
        other.write_text("another\n")
        monkeypatch.setattr("shards.stream.tar_cache._BOOT", other)
    with Fetcher(one, remote(RemoteFiles(store.root)), cache, 1 << 20) as fetcher:
        fetcher.prefetch(ROWS[:10])
        if change == "none":
            assert bytes(fetcher.read(4)) == expected(store, index)[4]
            assert fetcher.counters() == {"bytes_local": int(index.size[4])}
        else:
            assert soon(lambda: fetcher.counters().get("cache_corrupt", 0) == 1)
            assert soon(lambda: copy.is_file() and copy.read_bytes() == store.path(index.tars[0]).read_bytes())


@pytest.mark.parametrize("num_fit", [0, 1, 2])
def test_d17_a_cache_too_small_streams_what_does_not_fit(
    tmp_path: Path, store: FolderStore, index: Index, num_fit: int
) -> None:
    limit = num_fit * int(index.tar_bytes.max()) + 1000
    cache = tmp_path / "cache"
    largest = []
    files = RemoteFiles(store.root, lambda name, turn: largest.append(cached_bytes(cache)))
    with Fetcher(index, remote(files), cache, limit, threads=2) as fetcher:
        for _ in range(3):
            fetcher.prefetch(ROWS)
            assert soon(lambda: fetcher.counters().get("cache_full", 0) >= NUM_TARS - num_fit)
            assert read_all(fetcher) == expected(store, index)
            largest.append(cached_bytes(cache))
        assert soon(lambda: len(list(cache.glob("*.tar"))) == num_fit)
        assert fetcher.counters()["bytes_ranged"] >= 3 * (NUM_TARS - num_fit) * 10 * int(index.size.min())
    assert max(largest) <= limit
    assert len(list(cache.glob("*.tar"))) == num_fit


def test_d17_a_tar_that_arrives_while_room_is_made_is_counted(
    tmp_path: Path, store: FolderStore, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at the folder and that at its files no part becomes a tar: it would be counted under no name."""
    limit = int(index.tar_bytes.max()) + 1000
    cache, looked, arrived = tmp_path / "cache", threading.Event(), threading.Event()
    listed, replaced = os.scandir, os.replace

    def list_slowly(folder: Path) -> Iterable["os.DirEntry[str]"]:
        if folder != cache:
            return listed(folder)
        entries = list(listed(folder))
        if any(entry.name.endswith(".part") and Path(entry.path).stat().st_size for entry in entries):
            looked.set()
            arrived.wait(0.5)
        return entries

    def replace(old: Path, new: Path) -> None:
        replaced(old, new)
        if Path(new).suffix == ".tar":
            arrived.set()

    monkeypatch.setattr("shards.stream.tar_cache.os.scandir", list_slowly)
    monkeypatch.setattr("shards.stream.tar_cache.os.replace", replace)
    files = RemoteFiles(store.root, lambda name, turn: until(looked))
    with Fetcher(index, remote(files), cache, limit, threads=2) as fetcher:
        fetcher.prefetch(ROWS[:20])
        assert soon(lambda: fetcher.counters().get("cache_full", 0) == 1 and not fetcher._coming)
        assert soon(arrived.is_set)
    monkeypatch.undo()
    assert cached_bytes(cache) <= limit


def fetch_zeros(cache: TarCache, size: int) -> Path:
    """Another tar of this size, fetched into the cache."""
    data = bytes(size)
    return cache.fetch(hashlib.sha256(data).hexdigest(), size, lambda at, num: data[at : at + num], 60.0, frozenset())


@pytest.mark.parametrize("kind", ["tar", "part"])
def test_d17_what_makes_room_can_be_taken_up_by_nobody_while_it_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A process that found it there at the last moment cannot get its lock before its name is gone."""
    cache = TarCache(tmp_path / "cache", 1000)
    old = cache.folder / f"{'ab' * 32}.{kind}"
    old.write_bytes(bytes(600))
    unlink, taken = Path.unlink, []

    def look_first(path: Path, missing_ok: bool = False) -> None:
        if path == old:
            with path.open("r+b") as file, contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                taken.append(path)
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", look_first)
    assert fetch_zeros(cache, 700).stat().st_size == 700
    assert not old.exists()
    assert not taken


def test_d17_a_part_that_another_process_began_when_the_tar_was_there_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have found the new tar removed already, to make room."""
    cache, replaced = TarCache(tmp_path / "cache", 1000), os.replace

    def replace(old: Path, new: Path) -> None:
        replaced(old, new)
        if Path(new).suffix == ".tar":
            Path(old).write_bytes(b"another's")

    monkeypatch.setattr("shards.stream.tar_cache.os.replace", replace)
    path = fetch_zeros(cache, 700)
    assert path.with_suffix(".part").read_bytes() == b"another's"


def test_a_tar_that_is_gone_whenever_it_was_fetched_is_counted_and_read_by_ranges(
    tmp_path: Path, store: FolderStore, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other processes make room with it each time."""
    replaced, gone = os.replace, []

    def replace(old: Path, new: Path) -> None:
        replaced(old, new)
        if Path(new).suffix == ".tar":
            Path(new).unlink()
            gone.append(new)

    monkeypatch.setattr("shards.stream.tar_cache.os.replace", replace)
    with Fetcher(index, remote(RemoteFiles(store.root)), tmp_path / "cache", 1 << 20) as fetcher:
        fetcher.prefetch(ROWS[:10])
        assert read_some(fetcher, range(10)) == expected(store, index)[:10]
        assert soon(lambda: fetcher.counters().get("download_failed", 0) == 1)
        assert len(gone) == 3


class StalledTar(RemoteFiles):
    """The first request for a tar waits to be let go; a picture never begins at 0."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.asked, self.go_on = threading.Event(), threading.Event()

    def cat_file(self, path: str, start: int, end: int) -> bytes:
        if start == 0:
            self.asked.set()
            until(self.go_on)
        return super().cat_file(path, start, end)


def when_its_threads_have_ended(before: set[threading.Thread]) -> bool:
    return soon(lambda: not {one for one in set(threading.enumerate()) - before if one.name == "fetch"})


def test_a_download_that_ends_after_the_closing_holds_its_tar_no_more(
    tmp_path: Path, store: FolderStore, index: Index
) -> None:
    before, files = set(threading.enumerate()), StalledTar(store.root)
    fetcher = Fetcher(index.prefix(1), remote(files), tmp_path / "cache", 1 << 20)
    fetcher.prefetch(ROWS[:1])
    assert soon(files.asked.is_set)
    fetcher.close()
    files.go_on.set()
    assert when_its_threads_have_ended(before)
    assert remove_if_free(tmp_path / "cache" / f"{index.tar_sha256[0]}.tar"), "another run may make room with it"


def test_a_download_is_not_gone_on_with_after_the_closing(
    tmp_path: Path, store: FolderStore, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shards.stream.tar_cache.CHUNK_BYTES", 1000)
    before, files = set(threading.enumerate()), StalledTar(store.root)
    fetcher = Fetcher(index.prefix(1), remote(files), tmp_path / "cache", 1 << 20)
    fetcher.prefetch(ROWS[:1])
    assert bytes(fetcher.read(0)) == expected_first(store, index)
    assert soon(files.asked.is_set)
    fetcher.close()
    files.go_on.set()
    assert when_its_threads_have_ended(before)
    assert files.requests["00000.tar"] == 2, "a picture and the chunk that was on its way"
    assert fetcher.counters().get("download_failed", 0) == 0
    assert cached_bytes(tmp_path / "cache") == 0


def test_tars_that_are_no_longer_read_make_room(tmp_path: Path, store: FolderStore, index: Index) -> None:
    """One tar fits; once enough hints name another, the first goes and the other is fetched."""
    limit = int(index.tar_bytes.max()) + 1000
    with Fetcher(index, remote(RemoteFiles(store.root)), tmp_path / "cache", limit) as fetcher:

        def is_the_one_there(tar: int) -> bool:
            """Named once more at each look: hints count, not time."""
            fetcher.prefetch(ROWS[10 * tar : 10 * tar + 10])
            fetcher.read(10 * tar)
            return cached_tars(tmp_path / "cache") == [index.tar_sha256[tar]]

        for tar in (0, 2):
            assert soon(partial(is_the_one_there, tar))
        assert fetcher.counters()["cache_evicted"] >= 1


@contextlib.contextmanager
def small_files_only(num_bytes: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_d17_a_disk_that_takes_no_more_is_no_end(tmp_path: Path, store: FolderStore, index: Index) -> None:
    with Fetcher(index, remote(RemoteFiles(store.root)), tmp_path / "cache", 1 << 20) as fetcher:
        with small_files_only(5_000):
            data = filled(fetcher)
            assert soon(lambda: fetcher.counters().get("cache_full", 0) == NUM_TARS)
        assert data == expected(store, index)
    assert cached_bytes(tmp_path / "cache") == 0


def test_a_remote_tar_with_other_bytes_than_the_index_knows_is_refused(
    tmp_path: Path, store: FolderStore, index: Index
) -> None:
    path = store.path("00001.tar")
    path.write_bytes(bytes(path.stat().st_size))
    with Fetcher(index, remote(RemoteFiles(store.root)), tmp_path / "cache", 1 << 20) as fetcher:
        fetcher.prefetch(ROWS)
        assert bytes(fetcher.read(0)) == expected_first(store, index)
        assert soon(lambda: fetcher.counters().get("other_bytes", 0) == 3)
        assert soon(lambda: 1 in fetcher._changed)
        with pytest.raises(FetchError, match=r"00001\.tar: found a tar with the hash .*load the index again") as error:
            fetcher.read(10)
        assert error.value.reason == "changed"


def test_two_runs_with_one_cache_fetch_each_tar_once(tmp_path: Path, store: FolderStore, index: Index) -> None:
    files = RemoteFiles(store.root, lambda name, turn: time.sleep(0.05))
    both = [Fetcher(index, remote(files), tmp_path / "cache", 1 << 20) for _ in range(2)]
    for fetcher in both:
        fetcher.prefetch(ROWS)
    for fetcher in both:
        assert read_all(fetcher) == expected(store, index)
    assert soon(lambda: cached_tars(tmp_path / "cache") == sorted(index.tar_sha256))
    for fetcher in both:
        fetcher.close()
    assert sum(fetcher.counters().get("bytes_downloaded", 0) for fetcher in both) == index.tar_bytes.sum()


def test_the_part_of_a_killed_run_is_in_nobodys_way(tmp_path: Path, store: FolderStore, index: Index) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / f"{index.tar_sha256[0]}.part").write_bytes(b"x" * 70_000)
    (cache / f"{'ab' * 32}.part").write_bytes(b"x" * 70_000)
    limit = int(index.tar_bytes.sum()) + 10
    with Fetcher(index, remote(RemoteFiles(store.root)), cache, limit) as fetcher:
        assert filled(fetcher) == expected(store, index)
        assert soon(lambda: cached_tars(cache) == sorted(index.tar_sha256))
    assert not list(cache.glob("*.part"))


def test_a_tar_that_another_process_never_finishes_is_read_by_ranges(
    tmp_path: Path, store: FolderStore, index: Index
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    fd = os.open(cache / f"{index.tar_sha256[0]}.part", os.O_CREAT | os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        with Fetcher(index, remote(RemoteFiles(store.root)), cache, 1 << 20, deadline_s=2.0) as fetcher:
            fetcher.prefetch(ROWS[:10])
            assert read_some(fetcher, range(10)) == expected(store, index)[:10]
            assert fetcher.counters()["bytes_ranged"] == index.size[:10].sum()
            assert soon(lambda: fetcher.counters().get("download_failed", 0) == 1)
    finally:
        os.close(fd)


def test_requests_that_wait_their_turn_are_dropped_when_the_tar_is_there(
    tmp_path: Path, store: FolderStore, index: Index
) -> None:
    """One thread, stuck in the first picture, until the tar has come: it is there when the next one is fetched."""

    class SlowPictures(RemoteFiles):
        def cat_file(self, path: str, start: int, end: int) -> bytes:
            if start > 0:
                until(go_on)
            return super().cat_file(path, start, end)

    go_on = threading.Event()
    with Fetcher(index.prefix(2), remote(SlowPictures(store.root)), tmp_path / "cache", 1 << 20, threads=1) as fetcher:
        fetcher.prefetch(ROWS[:10], np.array([1]))
        assert soon(lambda: fetcher.counters().get("bytes_downloaded", 0) == index.tar_bytes[:2].sum())
        assert read_some(fetcher, range(1, 10)) == expected(store, index)[1:10]
        go_on.set()
        assert bytes(fetcher.read(0)) == expected_first(store, index)
        assert fetcher.counters()["bytes_ranged"] == index.size[0]


def test_nobody_waits_for_a_whole_tar(tmp_path: Path, store: FolderStore, index: Index) -> None:
    class SlowTars(RemoteFiles):
        def cat_file(self, path: str, start: int, end: int) -> bytes:
            if start == 0:  # the request for a tar; a picture never begins there
                until(go_on)
            return super().cat_file(path, start, end)

    go_on = threading.Event()
    with Fetcher(index.prefix(1), remote(SlowTars(store.root)), tmp_path / "cache", 1 << 20) as fetcher:
        fetcher.prefetch(ROWS[:10])
        assert read_some(fetcher, range(10)) == expected(store, index)[:10]
        assert fetcher.counters() == {"bytes_ranged": int(index.size[:10].sum()), "reads_ahead": 10}
        go_on.set()
        assert soon(lambda: len(cached_tars(tmp_path / "cache")) == 1)
        assert soon(lambda: bool(fetcher.read(0)) and fetcher.counters().get("bytes_local", 0) > 0), "then it is used"


# growth, limits


def test_a_longer_index_is_taken_in_while_reading(store: FolderStore, index: Index) -> None:
    with Fetcher(index.prefix(2), store) as fetcher:
        with pytest.raises(IndexError):
            fetcher.read(25)
        fetcher.grow(index)
        assert read_all(fetcher) == expected(store, index)
        with pytest.raises(ValueError, match="does not begin with the old one"):
            fetcher.grow(index.prefix(3))


@pytest.mark.parametrize(
    "change", [{"threads": 0}, {"sharers": 0}, {"deadline_s": 0.0}, {"max_ahead_bytes": -1}, {"max_cache_bytes": 0}]
)
def test_numbers_that_make_no_sense_are_refused(
    tmp_path: Path, store: FolderStore, index: Index, change: dict[str, int]
) -> None:
    limits: dict[str, int] = {"max_cache_bytes": 1, **change}
    with pytest.raises(ValueError, match="fetcher: found threads"):
        Fetcher(index, store, tmp_path / "cache", **limits)


def test_a_cache_folder_that_cannot_be_made_is_refused(tmp_path: Path, store: FolderStore, index: Index) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be made"):
        Fetcher(index, remote(RemoteFiles(store.root)), tmp_path / "file" / "cache", 1 << 20)

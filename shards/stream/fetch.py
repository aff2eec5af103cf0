"""The bytes of single pictures by row number, from local or remote tars.

In: an `Index`, the store of its tars (or the files of an image folder), and hints of which rows come next. Out: the
bytes of a picture. On disk: nothing for local tars; with a cache folder, whole copies of remote tars (`tar_cache.py`).

Remote tars without a cache folder: every picture is one ranged read, and hinted pictures are read ahead into bounded
memory. With a cache folder: hinted tars are fetched whole, and a row of a tar that is not there is read by its range.
All remote work runs in a few threads. A store that fails is asked again, with growing pauses: an outage shorter than
`deadline_s` changes nothing that is read, a longer one is a TimeoutError. Without rights it is not asked again.

Local tars are read and not mapped. A page fault holds the interpreter's lock while the disk works, `pread` does not (8
threads on a cold disk: 7,600 pictures/s instead of 2,300; on a warm disk both cost the same). And the end of a file
that was cut short is then an error, not a signal that ends the process.
"""

import contextlib
import fcntl
import hashlib
import os
import threading
import time
from collections import Counter, OrderedDict
from concurrent.futures import CancelledError, Future
from pathlib import Path
from types import TracebackType
from typing import Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from shards.disk.pictures import MAX_PICTURE_BYTES
from shards.disk.regular import open_regular, read_regular
from shards.disk.safe_text import one_line, visible
from shards.disk.store import FolderStore, Store
from shards.stream.index_arrays import Index
from shards.stream.request_threads import RequestThreads
from shards.stream.tar_cache import CacheFull, OtherBytes, TarCache

Int64: TypeAlias = npt.NDArray[np.int64]
T = TypeVar("T")
Reason: TypeAlias = Literal["missing", "changed", "damaged", "failed"]
Verify: TypeAlias = Literal["never", "first", "always"]

MAX_OPEN = 128  # open tars; a process may usually have 1,024 files open
MAX_COMING = 64  # tars that are being fetched
IDLE_CALLS = 16  # a tar is closed after so many hints in a row that do not name it
TRIES = 3  # of a tar that comes with other bytes, or goes before it is opened
FIRST_PAUSE_S = 0.1  # each is twice as long as the one before
LONGEST_PAUSE_S = 5.0
MORE_TIME = "check the store, or allow more time (deadline_s)"
_NO_TARS = np.empty(0, np.int64)


class FetchError(OSError):
    """One line; `reason` is "missing" (no such tar), "changed" (not the tar of the index: another size or too short),
    "damaged" (not the bytes whose hash the index has) or "failed" (this machine cannot read it, or it was closed)."""

    def __init__(self, message: str, reason: Reason) -> None:
        super().__init__(message)
        self.reason = reason


class _OpenTar:
    """An open tar; closed when the last thread has dropped it."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on; fewer only at the end of the tar."""
        return os.pread(self._fd, size, offset)

    def __del__(self) -> None:
        os.close(self._fd)


class Fetcher:
    """Owns open tars, threads, and pictures that were read ahead. Many threads may call `read`.

    Each hinted row must be read once; otherwise it stays in memory until `close`.
    """

    def __init__(
        self,
        index: Index,
        store: Store,
        cache_folder: Path | None = None,
        max_cache_bytes: int = 0,
        *,
        sharers: int = 1,
        threads: int = 16,
        deadline_s: float = 60.0,
        max_ahead_bytes: int = 64 << 20,
        verify: Verify = "first",
    ) -> None:
        """`cache_folder` and its limit are for remote tars; `sharers`: how many fetchers of this process use it.
        `threads`: requests at a time, for pictures and for tars. `verify`: when the bytes of a picture are compared
        with its hash. Raises ValueError for a number out of range."""
        least_cache_bytes = 0 if cache_folder is None else 1
        if min(threads, sharers) < 1 or deadline_s <= 0 or max_ahead_bytes < 0 or max_cache_bytes < least_cache_bytes:
            raise ValueError(
                f"fetcher: found threads {threads}, sharers {sharers}, deadline {deadline_s} s, {max_ahead_bytes} "
                f"bytes ahead and {max_cache_bytes} of cache, expected positive numbers"
            )
        self.index = index
        self._store = store
        self._folder = store if isinstance(store, FolderStore) else None
        self._deadline_s = deadline_s
        self._max_ahead_bytes = max_ahead_bytes
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._open: OrderedDict[int, _OpenTar] = OrderedDict()
        self._ahead: dict[int, Future[bytes]] = {}
        self._ahead_bytes = 0
        self._coming: dict[int, Future[None]] = {}
        self._named: dict[int, int] = {}  # tar -> number of the last hint that named it
        self._early: set[int] = set()  # tars that were only named as coming later
        self._given_up: dict[int, int] = {}  # tar -> number of the hint after which it could not be had whole
        self._changed: dict[int, str] = {}
        self._hints = 0
        self._verify = verify
        self._is_known = np.zeros(len(index), np.bool_)  # rows whose bytes had their hash once
        self._is_closed = threading.Event()
        is_cached = self._folder is None and cache_folder is not None
        self._cache = TarCache(cache_folder, max_cache_bytes, self._count) if is_cached and cache_folder else None
        self._planned_bytes = max_cache_bytes // sharers  # of tars in use and named as coming later
        self._now = RequestThreads(threads)  # for rows somebody waits for
        self._soon = RequestThreads(threads)  # for rows that were hinted
        self._whole = RequestThreads(threads)  # for tars

    def read(self, row: int) -> bytes:
        """The bytes of the picture in `row` of the index. Raises FetchError, TimeoutError, PermissionError (remote)."""
        if not 0 <= row < len(self.index):
            raise IndexError(f"row {row}: expected 0..{len(self.index) - 1}")
        tar = int(np.searchsorted(self.index.first, row, side="right")) - 1
        data = self._read(row, tar)
        expected = int(self.index.picture_hash[row])
        if not expected or self._verify == "never" or (self._verify == "first" and self._is_known[row]):
            return data
        if int.from_bytes(hashlib.sha256(data).digest()[:8], "big") != expected:
            self._count("damaged")
            raise FetchError(
                f"{self._place(tar)}: found other bytes than the table's hash at {int(self.index.offset[row])}; "
                "run `sixfold verify`",
                "damaged",
            )
        self._is_known[row] = True
        return data

    def _read(self, row: int, tar: int) -> bytes:
        offset, size = int(self.index.offset[row]), int(self.index.size[row])
        if self.index.files:
            return self._file(row, size)
        opened: _OpenTar | None
        if self._folder is not None:
            opened = self._local(self._folder, tar)
        else:
            with self._lock:
                ahead = self._ahead.pop(row, None)
                opened = self._open.get(tar)
                if ahead is not None and opened is not None and ahead.cancel():  # the tar came before its turn
                    self._ahead_bytes -= size
                    ahead = None
            if ahead is not None:
                try:
                    data = self._wait(ahead, self.index.tars[tar])
                finally:
                    with self._lock:
                        self._ahead_bytes -= size
                if tar not in self._changed:
                    self._count("reads_ahead")
                    return data
            if tar in self._changed:
                raise FetchError(self._changed[tar], "changed")
        if opened is None:
            name = self.index.tars[tar]
            return self._wait(self._now.submit(lambda: self._range(tar, offset, size)), name)
        try:
            data = opened.read(offset, size)
        except OSError as error:
            raise FetchError(f"{self._place(tar)}: cannot be read ({error.strerror})", "failed") from None
        if len(data) < size:
            message = f"{self._place(tar)}: the index names bytes behind its end; load the index again"
            raise FetchError(message, "changed")
        self._count("bytes_local", size)
        return data

    def prefetch(self, rows: Int64, later: Int64 = _NO_TARS) -> None:
        """Hints: the rows that come next, in their order, and the numbers of the tars that are needed after that.

        Returns at once. Hints beyond the limits are dropped; `read` then reads these rows itself.
        """
        if self._folder is not None or not len(rows):
            return
        tars = self.index.tar_of(rows).tolist()
        if self._cache is not None:
            self._bring_all(list(dict.fromkeys(tars)), later.tolist())
        with self._lock:
            absent = [(row, tar) for row, tar in zip(rows.tolist(), tars, strict=True) if tar not in self._open]
        for row, tar in absent:
            self._read_ahead(row, tar)

    def grow(self, index: Index) -> None:
        """Use a longer index of the same data set. Raises ValueError if it does not begin with the present one."""
        if index.prefix(min(len(self.index.tars), len(index.tars))).digest != self.index.digest:
            raise ValueError(
                f"{index.url}: the new index does not begin with the old one ({self.index.digest[:16]}); "
                "a data set may only grow while it is read"
            )
        self._is_known = np.concatenate([self._is_known, np.zeros(len(index) - len(self.index), np.bool_)])
        self.index = index

    def counters(self) -> dict[str, int]:
        """Counts since the start, without those that are 0.

        bytes_local (of local tars and copies), bytes_ranged, bytes_downloaded, reads_ahead, retries, timeouts,
        hints_left (dropped hints), damaged, cache_corrupt, cache_evicted, cache_full, download_failed, other_bytes.
        """
        with self._lock:
            return dict(sorted(self._counts.items()))

    def close(self) -> None:
        """End the threads and close the tars."""
        self._is_closed.set()
        for threads in (self._now, self._soon, self._whole):
            threads.close()
        with self._lock:
            for ahead in self._ahead.values():
                ahead.cancel()
            for coming in self._coming.values():
                coming.cancel()
            self._ahead.clear()
            self._coming.clear()
            self._open.clear()

    def __enter__(self) -> "Fetcher":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # local

    def _local(self, folder: FolderStore, tar: int) -> _OpenTar:
        with self._lock:
            opened = self._open.get(tar)
            if opened is not None:
                self._open.move_to_end(tar)
                return opened
        try:
            return self._opened(tar, folder.path(self.index.tars[tar]))
        except FileNotFoundError:
            raise self._missing(tar) from None
        except OSError as error:
            if isinstance(error, FetchError):
                raise
            raise FetchError(f"{self._place(tar)}: cannot be read ({error.strerror})", "failed") from None

    def _file(self, row: int, size: int) -> bytes:
        """A picture that is a file of its own."""
        place = f"{self._store.url}/{visible(self.index.files[row])}"
        try:
            data = read_regular(Path(self.index.root) / self.index.files[row], MAX_PICTURE_BYTES)
        except FileNotFoundError:
            raise FetchError(f"{place}: the picture is missing; bring it back, or start anew", "missing") from None
        except OSError as error:
            raise FetchError(f"{place}: cannot be read ({error.strerror})", "failed") from None
        if len(data) != size:
            raise FetchError(f"{place}: found {len(data)} bytes, the index says {size}; load it again", "changed")
        self._count("bytes_local", size)
        return data

    def _opened(self, tar: int, path: Path) -> _OpenTar:
        fd = open_regular(path)
        opened = _OpenTar(fd)
        if self._cache is not None:
            fcntl.flock(fd, fcntl.LOCK_SH)  # no process removes it to make room while it is read
            if not os.fstat(fd).st_nlink:
                raise FileNotFoundError(f"{path}: removed between the look and the lock")
        size = os.fstat(fd).st_size
        if size != self.index.tar_bytes[tar]:
            raise self._other_size(tar, size)
        with self._lock:
            if self._is_closed.is_set():  # nobody would let go of it
                return opened
            self._open[tar] = opened
            while len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)
        return opened

    # remote, by ranges

    def _read_ahead(self, row: int, tar: int) -> None:
        offset, size = int(self.index.offset[row]), int(self.index.size[row])
        with self._lock:
            if row in self._ahead:
                return
            if self._ahead_bytes + size > self._max_ahead_bytes:
                self._counts["hints_left"] += 1
                return
            self._ahead_bytes += size
            self._ahead[row] = self._soon.submit(lambda: self._range(tar, offset, size))

    def _range(self, tar: int, offset: int, size: int, counter: str = "bytes_ranged") -> bytes:
        """One ranged read, tried until the deadline. Raises FetchError, TimeoutError, PermissionError."""
        end, pause_s = time.monotonic() + self._deadline_s, FIRST_PAUSE_S
        while True:
            if self._is_closed.is_set():
                raise FetchError(f"{self._place(tar)}: the fetcher was closed", "failed")
            try:
                data = self._store.read_range(self.index.tars[tar], offset, size)
                if len(data) == size:
                    self._count(counter, size)
                    return data
                failure = f"found {len(data)} bytes at {offset}, expected {size}"
            except FileNotFoundError:
                raise self._missing(tar) from None
            except PermissionError as error:  # no later answer differs, and no other sample fares better
                raise PermissionError(
                    f"{self._place(tar)}: the store refuses to let it be read ({one_line(str(error), 200)}); check the "
                    "credentials in the environment, and who may read the data set"
                ) from None
            except Exception as error:  # client libraries raise classes of their own; all others mean "not now"
                failure = one_line(str(error), 200) or type(error).__name__
            self._refuse_another(tar)
            if time.monotonic() + pause_s >= end:
                raise TimeoutError(f"{self._place(tar)}: failed for {self._deadline_s:g} s ({failure}); {MORE_TIME}")
            self._is_closed.wait(pause_s)
            self._count("retries")
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _refuse_another(self, tar: int) -> None:
        """Raises FetchError if the tar is gone, or has another size by now; says nothing where the store does not."""
        try:
            found = self._store.size(self.index.tars[tar])
        except FileNotFoundError:
            raise self._missing(tar) from None
        except Exception:
            return
        if found != int(self.index.tar_bytes[tar]):
            raise self._other_size(tar, found)

    # remote, as whole tars

    def _bring_all(self, tars: list[int], later: list[int]) -> None:
        """Fetch the tars in use, then the later ones as far as the cache has room for both."""
        self._hints += 1
        for tar in self._early.intersection(tars):
            self._early.discard(tar)
            self._given_up.pop(tar, None)  # there was no room for it early
        in_use = {tar: at for tar, at in self._named.items() if self._hints - at <= IDLE_CALLS}
        self._named = in_use | dict.fromkeys(tars, self._hints)
        with self._lock:
            for tar in [tar for tar in self._open if tar not in self._named]:
                del self._open[tar]  # a removed copy gives its space back only when nobody has it open
        for tar in tars:
            self._bring(tar)
        room = self._planned_bytes - sum(int(self.index.tar_bytes[tar]) for tar in self._named)
        for tar in later:
            if tar not in self._named:
                room -= int(self.index.tar_bytes[tar])
                if room < 0:
                    return
                self._early.add(tar)
            self._named[tar] = self._hints
            self._bring(tar)

    def _bring(self, tar: int) -> None:
        """Fetch a tar, unless it is there, is being fetched, or has failed a moment ago."""
        cache, sha256 = self._cache, self.index.tar_sha256[tar]
        if cache is None or not sha256 or self._hints - self._given_up.get(tar, -IDLE_CALLS) < IDLE_CALLS:
            return
        with self._lock:
            if tar in self._open or tar in self._coming:
                return
        checked = cache.find_checked(sha256, int(self.index.tar_bytes[tar]))
        if checked is not None:
            with contextlib.suppress(OSError):  # another process made room this moment
                self._opened(tar, checked)
                return
        with self._lock:
            if len(self._coming) >= MAX_COMING:
                self._counts["hints_left"] += 1
                return
            self._coming[tar] = self._whole.submit(lambda: self._download(cache, tar))

    def _download(self, cache: TarCache, tar: int) -> None:
        sha256, size = self.index.tar_sha256[tar], int(self.index.tar_bytes[tar])

        def read(start: int, num: int) -> bytes:
            return self._range(tar, start, num, "bytes_downloaded")

        keep = frozenset(self.index.tar_sha256[other] for other in list(self._named))
        is_there = False
        try:
            for attempt in range(TRIES):
                try:
                    self._opened(tar, cache.fetch(sha256, size, read, self._deadline_s, keep))
                    is_there = True
                    break
                except FileNotFoundError:
                    continue  # another process made room between the fetch and the opening
                except OtherBytes as error:
                    self._count("other_bytes")
                    if attempt == TRIES - 1:  # not damaged on the way: it is another tar
                        self._changed[tar] = f"{self._place(tar)}: {error}; load the index again"
                        return
            else:
                self._count("download_failed")
        except CacheFull:
            self._count("cache_full")
        except OSError:
            if not self._is_closed.is_set():
                self._count("download_failed")  # the ranged reads that follow name what is wrong
        finally:
            with self._lock:
                self._coming.pop(tar, None)
                if not is_there:
                    self._given_up[tar] = self._hints

    def _wait(self, future: "Future[T]", name: str) -> T:
        """The result within the deadline. Raises FetchError, TimeoutError."""
        try:
            return future.result(timeout=self._deadline_s)
        except TimeoutError as error:
            self._count("timeouts")
            if error.args:  # of the request itself, with its cause
                raise
            where = f"{self._store.url}/{name}"
            raise TimeoutError(f"{where}: no answer in {self._deadline_s:g} s; {MORE_TIME}") from None
        except CancelledError:
            raise FetchError(f"{self._store.url}/{name}: the fetcher was closed", "failed") from None

    def _missing(self, tar: int) -> FetchError:
        return FetchError(f"{self._place(tar)}: the tar is missing; run `sixfold repair`", "missing")

    def _other_size(self, tar: int, found: int) -> FetchError:
        said = f"found {found} bytes, the index says {self.index.tar_bytes[tar]}; load the index again"
        return FetchError(f"{self._place(tar)}: {said}", "changed")

    def _place(self, tar: int) -> str:
        return f"{self._store.url}/{self.index.tars[tar]}"

    def _count(self, name: str, number: int = 1) -> None:
        with self._lock:
            self._counts[name] += number

"""The cache of language models' answers, so that nothing is asked or paid for twice.

In: the key of a request and its answer. Out: the answer that was stored first. On disk, one SQLite file (WAL):

    answers   key (sha256 of the request), value (canonical JSON), purpose, place, at_s (time of the answer)
    failures  key, purpose, try_number, reason, excerpt (escaped, at most 200 characters), at_s

An answer is on disk before anyone gets it. The table of failures is for people: what failed is asked again. Several
processes of one machine may share a file; WAL does not work between machines. The file never holds a server's key.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gen.llm.call import LlmError
from shards.disk.safe_text import one_line, visible

APPLICATION_ID = 0x73697836
VERSION = 1
BUSY_S = 30.0
MAX_EXCERPT_CHARS = 200
MAX_FAILURES = 100_000  # the oldest are deleted

_TABLES = (
    "CREATE TABLE answers (key TEXT PRIMARY KEY, value TEXT NOT NULL, purpose TEXT NOT NULL, place TEXT NOT NULL, "
    "at_s REAL NOT NULL) WITHOUT ROWID",
    "CREATE TABLE failures (id INTEGER PRIMARY KEY, key TEXT NOT NULL, purpose TEXT NOT NULL, "
    "try_number INTEGER NOT NULL, reason TEXT NOT NULL, excerpt TEXT NOT NULL, at_s REAL NOT NULL)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {VERSION}",
)


class LlmCache:
    """An open cache file; any thread may use it. Raises LlmError if the file is damaged or not one of ours."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._name = visible(str(path))
        self._clock = clock
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            raise LlmError(
                f"llm.cache {self._name}: found no place for a file ({error}), expected a folder that can be written "
                "to; set llm.cache to another name"
            ) from None
        try:
            with self._told():
                self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        one = self._connection.execute
        if not one("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            # another process may be making the same file: whoever has the lock makes all of it
            one("BEGIN EXCLUSIVE")
            if not one("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                for statement in _TABLES:
                    one(statement)
            one("COMMIT")
        found = one("PRAGMA application_id").fetchone()[0], one("PRAGMA user_version").fetchone()[0]
        if found != (APPLICATION_ID, VERSION):
            raise LlmError(
                f"llm.cache {self._name}: found a database that is not a cache of answers of version {VERSION}; set "
                "llm.cache to another name"
            )
        one("PRAGMA journal_mode = WAL")
        one("PRAGMA synchronous = FULL")  # a commit survives a loss of power; 1 ms on a disk, and a call takes longer
        one("DELETE FROM failures WHERE id <= (SELECT max(id) FROM failures) - ?", (MAX_FAILURES,))

    def get(self, key: str) -> str | None:
        """The stored answer as JSON text, or None."""
        with self._told():
            row = self._connection.execute("SELECT value FROM answers WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def put(self, key: str, value: str, purpose: str, place: str) -> str:
        """Store an answer; returns the value that counts, which is another one if another process was first."""
        row = (key, value, purpose, place, self._clock())
        with self._told():
            self._connection.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?)", row)
            kept = self._connection.execute("SELECT value FROM answers WHERE key = ?", (key,)).fetchone()
        return str(kept[0])

    def put_failure(self, key: str, purpose: str, try_number: int, reason: str, excerpt: str) -> None:
        """Store that a call failed, with the beginning of what the model said (`excerpt`, raw text)."""
        row = (key, purpose, try_number, reason, one_line(excerpt, MAX_EXCERPT_CHARS), self._clock())
        with self._told():
            self._connection.execute(
                "INSERT INTO failures (key, purpose, try_number, reason, excerpt, at_s) VALUES (?, ?, ?, ?, ?, ?)", row
            )

    def close(self) -> None:
        """Close the file. All answers are on disk already."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Under the lock, and with SQLite's errors as one line for people."""
        with self._lock:
            try:
                yield
            except sqlite3.Error as error:
                raise LlmError(
                    f"llm.cache {self._name}: found {error}, expected a sound SQLite file that can be written to; set "
                    "llm.cache to another name, or move this file away and ask again"
                ) from None

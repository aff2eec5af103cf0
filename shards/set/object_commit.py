"""The commit protocol on object stores, where one put makes a whole object visible.

In: tar bytes, table, record. Out: the record that is published. On the store:

    _meta/claims/NNNNN.gK.json    claim K on a shard: the record of the attempt, put exclusively
    NNNNN.tar NNNNN.parquet       put exclusively by the holder of the newest claim
    NNNNN_stats.json              put last

An attempt stays in memory until it publishes (about 100 MB for 1,000 images of 512 px). The attempt that claims first
goes on. An attempt with the same bytes helps it. An attempt with other bytes waits `PATIENCE_S` for the record of the
newest claim, then takes over with claim K+1 and overwrites what the dead holder left. It overwrites and never deletes,
so the names stay taken, and a holder that goes on late cannot put its bytes there. If a put times out, reading the
object tells whether it was accepted (`ObjectStore.write_exclusive`). A listing decides nothing here.

This is weaker than a folder in one case: an overwrite of the old holder that is already on its way can arrive after
that of the new holder. `verify` then names the shard, and after `repair` it is made again.
"""

import hashlib
import time
from collections.abc import Callable

from shards.disk.layout import record_name, shard_name, table_name, tar_name
from shards.disk.object_store import ObjectStore
from shards.disk.record import FileStamp, Record, RecordError, parse_record, read_record
from shards.disk.store import CLAIMS

PATIENCE_S = 60.0
_POLL_S = 0.5
_MAX_GENERATIONS = 100
_PIECE_BYTES = 64 << 20  # of a file that is compared with its hash


class ObjectAttempt:
    """An attempt at one shard on an object store; its tar is in memory."""

    def __init__(self, store: ObjectStore, shard: int, attempt: str, patience_s: float = PATIENCE_S) -> None:
        self.store, self.shard, self.attempt, self.patience_s = store, shard, attempt, patience_s
        self._tar = bytearray()

    def write(self, data: bytes) -> None:
        """Append bytes to the tar in memory."""
        self._tar += data

    def publish(self, table: bytes, make_record: Callable[[FileStamp, FileStamp], Record]) -> Record:
        """Claim, put tar and table, put the record. Raises OSError if the store fails."""
        store, shard = self.store, self.shard
        pieces = {tar_name(shard): bytes(self._tar), table_name(shard): table}
        self.abandon()
        ours = make_record(*(_stamp(data) for data in pieces.values()))
        done = read_record(store, shard)
        if done is not None:
            return done
        generation, holder = self._claim(ours)
        if holder is None:
            done = read_record(store, shard)
            assert done is not None, "only a published record ends the wait for a claim"
            return done
        for name, data in pieces.items():
            if not store.write_exclusive(name, data):
                done = read_record(store, shard)
                if done is not None:
                    _drop_claims(store, shard, generation)
                    return done
                self._check_newest(generation)
                store.replace(name, data)
        self._check_newest(generation)
        done = _put_record(store, holder)
        _drop_claims(store, shard, generation)
        return done

    def abandon(self) -> None:
        """Forget the tar."""
        self._tar = bytearray()

    def _check_newest(self, generation: int) -> None:
        if self._is_taken_over(generation):
            raise OSError(f"{self.store.url}: shard {self.shard}: attempt {self.attempt} was taken over by a newer one")

    def _is_taken_over(self, generation: int) -> bool:
        return self.store.exists(_claim_name(self.shard, generation + 1))

    def _claim(self, ours: Record) -> tuple[int, Record | None]:
        """The claim to act under, that of this attempt or an equal one; (…, None) once the record is published.

        Only the holder of the newest claim may act, so it alone is waited for: a worker does not beat meanwhile.
        """
        data = ours.to_bytes()
        for generation in range(_MAX_GENERATIONS):
            name = _claim_name(self.shard, generation)
            if self.store.write_exclusive(name, data):
                return generation, ours
            if self._is_taken_over(generation):
                continue
            try:
                holder = parse_record(self.store.read_bytes(name), self.shard, f"{self.store.url}/{name}")
                if holder.files() == ours.files() and holder.fingerprint == ours.fingerprint:
                    return generation, holder
            except (FileNotFoundError, RecordError):
                pass  # just carried out, or unreadable: the record or the next generation settles it
            deadline = time.monotonic() + self.patience_s
            while True:
                if read_record(self.store, self.shard) is not None:
                    return generation, None
                if time.monotonic() > deadline or self._is_taken_over(generation):
                    break
                time.sleep(min(_POLL_S, self.patience_s))
        raise OSError(
            f"{self.store.url}: shard {self.shard}: found {_MAX_GENERATIONS} abandoned claims in {CLAIMS}; remove them"
        )


def finish_claims(store: ObjectStore) -> tuple[int, ...]:
    """Publish the records of claims whose data are complete, and remove the claims of published shards.

    A run calls it at its start. A claim without its data stays: the next attempt takes it over.
    """
    finished = []
    for name in store.list(f"{CLAIMS}/"):
        shard_text, _, rest = name.rpartition("/")[2].partition(".g")
        generation = rest.removesuffix(".json")
        if not (len(shard_text) == 5 and shard_text.isdigit() and generation.isdigit()):
            continue
        shard = int(shard_text)
        try:
            claim = parse_record(store.read_bytes(name), shard, f"{store.url}/{name}")
            if read_record(store, shard) is None:
                if not _has_files(store, claim):
                    continue
                _put_record(store, claim)
                finished.append(shard)
            store.delete(name)
        except (FileNotFoundError, RecordError):
            continue  # taken over by the next attempt at this shard
    return tuple(finished)


def _put_record(store: ObjectStore, record: Record) -> Record:
    """Publish `record` and return the record that counts. If an old holder put its record first, but the data in place
    are those of `record`, `record` replaces it."""
    name = record_name(record.shard)
    if store.write_exclusive(name, record.to_bytes()):
        return record
    done = read_record(store, record.shard)
    assert done is not None, "the name was taken a moment ago"
    if done.files() != record.files() and _has_files(store, record):
        store.replace(name, record.to_bytes())
        return record
    return done


def _has_files(store: ObjectStore, record: Record) -> bool:
    """Whether tar and table of `record` are in place, whatever their size. Raises FileNotFoundError if one is not
    there."""
    return all(_is(store, name, stamp) for name, stamp in record.files().items())


def _is(store: ObjectStore, name: str, stamp: FileStamp) -> bool:
    if store.size(name) != stamp.bytes:
        return False
    digest = hashlib.sha256()
    for start in range(0, stamp.bytes, _PIECE_BYTES):
        digest.update(store.read_range(name, start, min(_PIECE_BYTES, stamp.bytes - start)))
    return digest.hexdigest() == stamp.sha256


def _drop_claims(store: ObjectStore, shard: int, newest: int) -> None:
    for generation in range(newest, -1, -1):
        store.delete(_claim_name(shard, generation))


def _claim_name(shard: int, generation: int) -> str:
    return f"{CLAIMS}/{shard_name(shard)}.g{generation}.json"


def _stamp(data: bytes) -> FileStamp:
    return FileStamp(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())

"""Pictures of shards that were set aside: what is whole in them is used again, for the web may not have it any more.

In: a store; the `uid` and the address of a draw. Out: its `Picture`, the same bytes as before. On disk: reads tables
and tars below `_meta/quarantine`; writes nothing.

A shard is set aside for one damaged byte. Its table says where each JPEG lies in the tar and which hash it has, so each
picture answers for itself. Of a shard whose table is damaged too, nothing is used.
"""

import hashlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import pyarrow as pa

from gen.make.maker import Picture
from gen.prompts.real_images import decode_picture
from shards.disk.layout import SUCCESS, TABLE, shard_of, tar_name
from shards.disk.object_store import ObjectStore
from shards.disk.parquet import read_rows
from shards.disk.store import FolderStore
from shards.set.quarantine import incidents
from shards.set.row_jpegs import JPEG_COLUMNS

OF_IMAGE = ("original_width", "original_height")  # what the picture told when it was fetched
COLUMNS = ("uid", "url", "status", *OF_IMAGE, *JPEG_COLUMNS)


class KeptPictures:
    """Those of one data set. The tables are read when a picture is first asked for."""

    def __init__(self, store: FolderStore | ObjectStore) -> None:
        self.store = store

    def find(self, uid: str, url: str) -> Picture | None:
        """The picture that this draw had from this address; None if there is no whole one."""
        for tar, row in self._rows.get(uid, ()):
            data = self._read(tar, row) if row["url"] == url else None
            pixels = None if data is None else decode_picture(data)
            if data is not None and pixels is not None and not isinstance(pixels, str):
                return Picture(pixels, columns={name: row[name] for name in OF_IMAGE}, jpeg=data)
        return None

    @cached_property
    def _rows(self) -> Mapping[str, list[tuple[str, Mapping[str, Any]]]]:
        """uid -> name of a tar and the row of the picture in it."""
        found: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
        for tar, row in self._read_tables():
            if row["status"] == SUCCESS:
                found.setdefault(row["uid"], []).append((tar, row))
        return found

    def _read_tables(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        for incident in incidents(self.store):
            for name in self.store.list(f"{incident}/"):
                folder, _, base = name.rpartition("/")
                shard = shard_of(base, TABLE)
                if shard is None:
                    continue
                try:
                    rows = read_rows(self.store.read_bytes(name), COLUMNS).to_pylist()
                except (pa.ArrowException, OSError, ValueError, KeyError):
                    continue  # what was damaged may be the table
                yield from ((f"{folder}/{tar_name(shard)}", row) for row in rows)

    def _read(self, tar: str, row: Mapping[str, Any]) -> bytes | None:
        """None for a tar that is gone or cut short, and for damaged bytes."""
        try:
            data = self.store.read_range(tar, row["jpg_offset"], row["jpg_size"])
        except (OSError, ValueError, TypeError):  # TypeError: the row of a success has no place
            return None
        return data if hashlib.sha256(data).hexdigest() == row["sha256"] else None

"""What an index keeps on disk: names, records, what is published.

In: a folder. Out: which units are done; the record of an index. On disk, `image` or `text` for MODALITY, in
clip-retrieval's layout:

    image.index                       FAISS' own file; its ids are the rows of the pool
    image.parts/MARK_00000.index      instead of it: parts that are searched one by one; their ids count from the part's
                                      first row
    _meta/index_image.json            the record: factory, size, hash, digest of the vectors, model, recall
    _meta/index_image.next.json       the record of an index that is being published
    _meta/index_image/                work: trained.index, 00000.index, whole.index, each with its record (.json)
    _meta/publish.lock                held while a unit is published

A file counts when its record is there and it has the recorded size and hash. A new index is written as a whole, then
its record as `next`, then the file takes its name, then `next` takes the name of the record: whenever that is
interrupted, one of the two records belongs to what is there.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from cluster.recipes.load import fingerprint
from retrieve.index.spec import Decides
from retrieve.pool.embeddings import Modality
from shards.disk.checked_json import parse_checked, to_checked
from shards.disk.layout import META
from shards.disk.record import JSON
from shards.disk.regular import NO_FILE, open_regular, read_regular, sha256_of
from shards.disk.replace import replace_file, sync_folder

FOLDER = "index"  # beside the vectors
TRAINED, WHOLE = "trained", "whole"
LOCK = f"{META}/publish.lock"
MAX_RECORD_BYTES = 1 << 22
INNER_PRODUCT = "inner_product"


class Plain(BaseModel):
    """Data of a record; what a later version adds is ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class IndexFile(Plain):
    """One file of FAISS."""

    name: str  # below the folder of the index
    first_row: int  # of the pool, that its id 0 means
    count: int  # vectors that can be found
    bytes: int
    sha256: str


class Setting(Plain):
    """How an index is asked."""

    nprobe: int = 0  # lists that are looked at
    ef: int = 0  # candidates that a graph follows
    k_factor: float = 1.0  # candidates of the codes for each one that the index gives
    over: int = 1  # candidates of the index for each one that is asked for; the pool's own vectors decide


class Measured(Plain):
    """What a search finds of what is there."""

    k: int
    wanted: float
    recall: float
    num_queries: int
    queries: str  # what they were, in words
    setting: Setting
    queries_per_s: float  # of one thread

    @property
    def is_reached(self) -> bool:
        """Whether searches have the recall that was wished for."""
        return self.recall >= self.wanted


class Record(Plain):
    """What `_meta/index_image.json` says."""

    mark: str
    decides: Decides
    metric: str
    count: int
    unusable: int
    files: tuple[IndexFile, ...]
    model: str | None  # that made the vectors; None: nobody says
    model_digest: str | None
    measured: Measured


@dataclass(frozen=True)
class Done:
    """A unit of work that is there."""

    path: Path
    body: Mapping[str, Any]


@dataclass(frozen=True)
class Output:
    """The folder of the indexes of a pool; looks anew at every question."""

    root: Path
    modality: Modality

    @property
    def work(self) -> Path:
        """Where units are, until the index is published."""
        return self.root / META / f"index_{self.modality}"

    @property
    def record_path(self) -> Path:
        """Where the record is."""
        return self.root / META / f"index_{self.modality}.json"

    @property
    def next_path(self) -> Path:
        """Where the record of the index is that is being published."""
        return self.root / META / f"index_{self.modality}.next.json"

    @property
    def index_path(self) -> Path:
        """The index, if it is one file."""
        return self.root / f"{self.modality}.index"

    @property
    def parts_path(self) -> Path:
        """The folder of its files, if it is kept in parts."""
        return self.root / f"{self.modality}.parts"

    # units

    def unit_path(self, name: str) -> Path:
        """The file of a unit: `trained`, `00000`, `whole`."""
        return self.work / f"{name}.index"

    def done(self, name: str, mark: str) -> Done | None:
        """None if the unit must be made: no record, one of another index, a file that is gone or has another size.
        Raises ValueError for a record that was changed."""
        path = self.work / f"{name}.json"
        try:
            body = parse_checked(read_regular(path, MAX_RECORD_BYTES), str(path))
            if body.get("mark") != mark or self.unit_path(name).stat().st_size != body["bytes"]:
                return None
        except FileNotFoundError:
            return None
        except (ValueError, KeyError) as error:
            raise ValueError(f"{error}; delete it, and the unit is made again") from None
        return Done(self.unit_path(name), body)

    def write_done(self, name: str, mark: str, body: Mapping[str, JSON]) -> None:
        """The last step of a unit whose file is there."""
        path = self.unit_path(name)
        stamp: dict[str, JSON] = {"mark": mark, "bytes": path.stat().st_size, "sha256": sha256_of(path)}
        replace_file(self.work / f"{name}.json", to_checked({**stamp, **body}))

    def begin(self, mark: str) -> None:
        """Make the folders; remove units of other indexes, and what killed runs left."""
        self.work.mkdir(parents=True, exist_ok=True)
        for path in sorted(self.work.iterdir()):
            stem = path.name.removesuffix(".json").removesuffix(".index")
            if path.name.startswith(".") or self.done(stem, mark) is None:
                path.unlink(missing_ok=True)

    # the record

    def records(self) -> list[Record]:
        """What is published, and what was about to be; of one of them the files are there. Raises ValueError for a
        record that was changed or is none."""
        found = (read_record(path) for path in (self.record_path, self.next_path))
        return [one for one in found if one is not None]

    def source(self, file: IndexFile) -> Path:
        """Where a file of a record is before it is published."""
        is_whole = self.root / file.name == self.index_path
        return self.unit_path(WHOLE if is_whole else file.name.removesuffix(".index")[-5:])

    def publish(self, record: Record) -> None:
        """The files take the names that the record says, whatever was there. The caller is alone in the folder."""
        replace_file(self.next_path, to_checked(record.model_dump(mode="json")))
        self.go_on_publishing(record)

    def go_on_publishing(self, record: Record) -> None:
        """The rest of it, from any place where it was interrupted."""
        for one in record.files:
            target, source = self.root / one.name, self.source(one)
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.exists():
                os.replace(source, target)
                sync_folder(target.parent)
        os.replace(self.next_path, self.record_path)
        sync_folder(self.record_path.parent)
        self.clear(record)

    def settle(self) -> None:
        """Go on with a publishing that was interrupted, or forget it if its files are gone."""
        record = read_record(self.next_path)
        if record is None:
            return
        places = [(self.source(one), self.root / one.name, one.bytes) for one in record.files]
        if all(size in (size_of(source), size_of(target)) for source, target, size in places):
            self.go_on_publishing(record)
        else:
            self.next_path.unlink()

    def clear(self, record: Record) -> None:
        """Remove the work, and files of indexes that were here before."""
        keep = {self.root / one.name for one in record.files}
        old = [self.index_path, self.next_path, *self.parts_path.glob("*.index"), *self.work.glob("*")]
        for path in old:
            if path not in keep:
                path.unlink(missing_ok=True)
        for folder in (self.parts_path, self.work):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def size_of(path: Path) -> int:
    """Bytes of the file; -1 if there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def mark_of(decides: Decides) -> str:
    """What units belong to."""
    return fingerprint(decides.model_dump(mode="json"))


def read_record(path: Path) -> Record | None:
    """None if there is none. Raises ValueError in one line for what is no record of an index."""
    again = "delete it and run `sixfold index --replace`"
    try:
        body = parse_checked(read_regular(path, MAX_RECORD_BYTES), str(path))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; {again}") from None
    except ValueError as error:
        raise ValueError(f"{error}; {again}") from None
    try:
        record = Record.model_validate(body)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise ValueError(f"{path}: found no record of an index (at {where}); {again}") from None
    for one in record.files:
        if Path(one.name).is_absolute() or ".." in Path(one.name).parts:
            raise ValueError(f"{path}: found a file outside of its folder; {again}")
    return record


def check_file(folder: Path, stamp: IndexFile, go_on: Callable[[], None]) -> Path:
    """The file, which has the recorded size and hash. Raises ValueError in one line for one that has not."""
    path = folder / stamp.name
    again = "build it again with `sixfold index`"
    try:
        os.close(open_regular(path))
        size = path.stat().st_size
    except FileNotFoundError:
        raise ValueError(f"{path}: found no file, expected the index that its record names; {again}") from None
    except OSError as error:
        what = "no regular file" if error.errno in NO_FILE else error.strerror
        raise ValueError(f"{path}: found {what}, expected an index; {again}") from None
    if size != stamp.bytes:
        raise ValueError(f"{path}: found {size:,} bytes, expected {stamp.bytes:,}: a cut index; {again}")
    if sha256_of(path, go_on) != stamp.sha256:
        raise ValueError(f"{path}: found other bytes than its record says: a damaged index; {again}")
    return path

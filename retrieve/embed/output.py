"""What an embedding of a pool keeps on disk: names, records, whose folder it is.

In: a folder. Out: which units are done; the summary of all of them. On disk, in clip-retrieval's layout, `NN` the
number of the unit (a table of the pool) with as many digits as the last one needs:

    img_emb/img_emb_NN.npy          float16 (rows, D): row i is the picture of row i of the table; zeros: no picture
    text_emb/text_emb_NN.npy        the same of the captions
    metadata/metadata_NN.parquet    image_path, caption, key, shard and what else the pool says of row i; only away from
                                    the pool: beside it, the tables of the pool are there
    embeddings.json                 model, width, rows, what became zeros; written when a modality is whole
    _meta/embed.yaml                model and pool that the folder belongs to
    _meta/embed/img_emb_NN.json     the record: sizes and hashes of a unit's files, and its rows by status

A unit is done when its record is there and its files have the recorded sizes. The record is written first, then the
unit's files take their names as wholes (`shards.disk.replace`); while that happens the writer holds
`_meta/embed/publish.lock`, so of two attempts at a unit the second one finds the record of the first. So whenever a run
ends, a file is ours if and only if a record names it; others are never written over or removed.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.recipes.folder import refuse_other
from cluster.recipes.load import dump_recipe, fingerprint, parse_recipe
from retrieve.embed.spec import Begun, Decides
from retrieve.pool.embeddings import FOLDERS, MODALITIES, SUMMARY, Modality
from retrieve.pool.pool import METADATA, Pool
from shards.disk.checked_json import parse_checked, to_checked
from shards.disk.layout import META
from shards.disk.record import JSON, FileStamp
from shards.disk.regular import read_regular
from shards.disk.replace import replace_file

BEGUN = f"{META}/embed.yaml"
RECORDS = f"{META}/embed"
LOCK = f"{RECORDS}/publish.lock"
MAX_RECORD_BYTES = 1 << 28  # of a unit of which each row has a bad picture
WHAT = "set of embeddings"


@dataclass(frozen=True)
class Output:
    """The folder of one embedding; looks anew at every question."""

    root: Path
    num_units: int
    has_tables: bool  # the pool's own tables are there, so none are written
    mark: str  # fingerprint of `Decides`

    @staticmethod
    def of(root: Path, pool: Pool, decides: Decides) -> "Output":
        """`root` need not exist."""
        tables = pool.parts[0].path.parent.resolve()
        return Output(
            root,
            len(pool.parts),
            tables in (root.resolve(), root.resolve() / METADATA),
            fingerprint(decides.model_dump(mode="json")),
        )

    def name(self, unit: int) -> str:
        """``"07"`` of 40 units, as clip-retrieval counts digits."""
        return f"{unit:0{int(math.log10(self.num_units)) + 1}d}"

    def vectors(self, modality: Modality, unit: int) -> Path:
        """Where the vectors of a unit are, or will be."""
        folder = FOLDERS[modality]
        return self.root / folder / f"{folder}_{self.name(unit)}.npy"

    def table(self, unit: int) -> Path:
        """Where its rows are told, away from the pool."""
        return self.root / METADATA / f"metadata_{self.name(unit)}.parquet"

    def record_path(self, modality: Modality, unit: int) -> Path:
        """Where its record is."""
        return self.root / RECORDS / f"{FOLDERS[modality]}_{self.name(unit)}.json"

    def record(self, modality: Modality, unit: int) -> dict[str, Any] | None:
        """None if the unit must be made: no record, one of another model or pool, or a file that is gone or cut.
        Raises ValueError for a record that was changed."""
        body = self._written(modality, unit)
        if body is None:
            return None
        sizes = {self.root / name: stamp["bytes"] for name, stamp in body["files"].items()}
        return body if all(path.is_file() and path.stat().st_size == size for path, size in sizes.items()) else None

    def _written(self, modality: Modality, unit: int) -> dict[str, Any] | None:
        """The record, whether its files are there or not; None if there is none of this model and pool."""
        path = self.record_path(modality, unit)
        again = f"delete it and {self.vectors(modality, unit)}, and the unit is made again"
        try:
            data = read_regular(path, MAX_RECORD_BYTES)
        except FileNotFoundError:
            return None
        try:
            body = parse_checked(data, str(path))
        except ValueError as error:
            raise ValueError(f"{error}; {again}") from None
        try:
            is_told = all(isinstance(name, str) and stamp["bytes"] >= 0 for name, stamp in body["files"].items())
            is_ours = is_told and body["mark"] == self.mark and body["unit"] == unit
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: found no record of a unit ({error}); {again}") from None
        return body if is_ours else None

    def write_record(
        self, modality: Modality, unit: int, files: Mapping[str, FileStamp], body: dict[str, JSON]
    ) -> None:
        """Before the files take their names."""
        stamps = {name: {"bytes": stamp.bytes, "sha256": stamp.sha256} for name, stamp in files.items()}
        whole = {"mark": self.mark, "unit": unit, "modality": modality, "files": stamps, **body}
        replace_file(self.record_path(modality, unit), to_checked(whole))

    def missing(self, modalities: Sequence[Modality]) -> list[int]:
        """The units that have not all their records, in order."""
        return [unit for unit in range(self.num_units) if any(self.record(one, unit) is None for one in modalities)]

    # whose folder it is

    def begun(self) -> Begun | None:
        """Who began here. Raises ValueError for a file that cannot be read."""
        path = self.root / BEGUN
        try:
            return parse_recipe(read_regular(path), Begun, str(path))
        except FileNotFoundError:
            return None

    def refuse_strangers(self, decides: Decides, modalities: Sequence[Modality]) -> None:
        """Raises ValueError if the folder has vectors of another model or pool, or files that no record names."""
        before = self.begun()
        if before is not None and any((self.root / RECORDS).glob("*.json")):
            old, new = before.decides.model_dump(mode="json"), decides.model_dump(mode="json")
            refuse_other(old, new, Decides, str(self.root), WHAT)
        ours = {
            name
            for one in MODALITIES
            for unit in range(self.num_units)
            if (body := self._written(one, unit)) is not None
            for name in body["files"]
        }
        for path in self._files(modalities):
            if path.suffix in (".npy", ".parquet") and path.relative_to(self.root).as_posix() not in ours:
                raise ValueError(
                    f"{path.parent}: found files that `sixfold embed` did not write, such as {path.name}, which no "
                    "record names; choose another --out, or move them away"
                )
        if not self.has_tables and any(self.root.glob("*.parquet")):
            raise ValueError(f"{self.root}: found the tables of another pool; choose another --out")

    def begin(self, decides: Decides, model: str, modalities: Sequence[Modality]) -> None:
        """Take the folder, and remove the temporaries that killed runs left."""
        before = self.begun()
        known = (*modalities, *(before.modalities if before else ()))
        begun = tuple(one for one in MODALITIES if one in known)
        (self.root / RECORDS).mkdir(parents=True, exist_ok=True)
        replace_file(self.root / BEGUN, dump_recipe(Begun(model=model, modalities=begun, decides=decides)).encode())
        for path in self._files(modalities):
            if re.fullmatch(r"\.(img_emb|text_emb|metadata)_\d+\.(npy|parquet)\.[^.]+\.tmp", path.name):
                path.unlink(missing_ok=True)

    def _files(self, modalities: Sequence[Modality]) -> list[Path]:
        """What lies in the folders of these modalities, and beside them where rows are told."""
        folders = [FOLDERS[one] for one in modalities] + ([] if self.has_tables else [METADATA])
        there = [self.root / folder for folder in folders if (self.root / folder).is_dir()]
        return sorted(path for folder in there for path in folder.iterdir() if path.is_file())

    def write_summary(self, decides: Decides, model: str, dim: int) -> dict[str, Any] | None:
        """`embeddings.json` of the modalities that are whole; None, and no file, if none is."""
        whole: dict[str, Any] = {}
        begun = self.begun()
        for modality in () if begun is None else begun.modalities:
            records = [self.record(modality, unit) for unit in range(self.num_units)]
            found = [one for one in records if one is not None]
            if len(found) == len(records):
                statuses: Counter[str] = Counter()
                for one in found:
                    statuses.update(one["statuses"])
                whole[modality] = {
                    "rows": sum(one["rows"] for one in found),
                    "statuses": dict(sorted(statuses.items())),
                    "precisions": sorted({one["precision"] for one in found}),
                }
        if not whole:
            (self.root / SUMMARY).unlink(missing_ok=True)
            return None
        body = {"model": model, "dim": dim, "modalities": whole, **decides.model_dump(mode="json")}
        replace_file(self.root / SUMMARY, to_checked(body))
        return body

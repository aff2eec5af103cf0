"""The pictures that edits begin with: what a row calls them, whatever kind of set they lie in."""

import hashlib
import io
import tarfile
from pathlib import Path

import datasets
import pytest

from cluster.process.exit import Draining
from cluster.process.stop_flag import StopFlag
from gen.edit.sources import Sources, SourceSpec, chosen_rows, index_of, rows_by_key, write_sources
from shards.labels.classes import Class
from tests.support.alter_makers import CLASSES
from tests.support.small_edits import NAMES, jpegs


def write_tars(folder: Path) -> dict[str, bytes]:
    """Two of them, as others write tars: key -> picture. One lies in a folder, one has a hidden character."""
    folder.mkdir()
    pictures = {}
    for number, of_tar in enumerate((jpegs()[:7], jpegs()[7:])):
        with tarfile.open(folder / f"train-{number:03d}.tar", "w") as tar:
            for place, (class_id, jpeg) in enumerate(of_tar):
                key = f"b/img{number}{place}" if place else f"x\u200b{number}"
                pictures[key.replace("\u200b", "⟨U+200B⟩")] = jpeg
                for name, data in ((f"{key}.jpg", jpeg), (f"{key}.cls", b"%d" % class_id)):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return pictures


def write_hugging_face(folder: Path, kind: str) -> dict[str, bytes]:
    """Files of arrow or parquet: file and row -> picture."""
    folder.mkdir()
    features = datasets.Features({"label": datasets.ClassLabel(names=list(NAMES.values())), "image": datasets.Image()})
    labels = [class_id for class_id, _ in jpegs()]
    cells = [{"bytes": jpeg, "path": None} for _, jpeg in jpegs()]
    made = datasets.Dataset.from_dict({"label": labels, "image": cells}, features=features)
    if kind == "parquet":
        made.to_parquet(folder / "train-00000-of-00001.parquet")
        return {f"train-00000-of-00001.parquet/{row}": jpeg for row, (_, jpeg) in enumerate(jpegs())}
    made.save_to_disk(folder, num_shards=2)
    return {f"data-{row // 6:05d}-of-00002.arrow/{row % 6}": jpeg for row, (_, jpeg) in enumerate(jpegs())}


def table_of(spec: SourceSpec, classes: list[Class]) -> Sources:
    index = index_of(spec, classes)
    return Sources.load(write_sources(spec, index, chosen_rows(spec, index, classes, 0)))


@pytest.mark.parametrize("kind", ["tars", "arrow", "parquet"])
def test_a_source_is_named_as_it_is_called_in_a_set_of_others(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    real = tmp_path / "real"
    pictures = write_tars(real) if kind == "tars" else write_hugging_face(real, kind)
    spec = SourceSpec(set=str(real))
    table = table_of(spec, CLASSES).table.to_pylist()
    assert {row["key"] for row in table} == set(pictures)
    hashes = {key: hashlib.sha256(jpeg).hexdigest() for key, jpeg in pictures.items()}
    assert {row["key"]: row["sha256"] for row in table} == hashes
    assert rows_by_key(spec, index_of(spec, CLASSES)) == {row["key"]: row["row"] for row in table}


def test_a_stop_is_heeded_between_two_tars_whose_keys_are_read(tmp_path: Path) -> None:
    write_tars(tmp_path / "real")
    spec = SourceSpec(set=str(tmp_path / "real"))
    index, stop = index_of(spec, CLASSES), StopFlag()
    stop.request("test")
    with pytest.raises(Draining, match=r"stopped on request \(test\)"):
        write_sources(spec, index, chosen_rows(spec, index, CLASSES, 0), stop)

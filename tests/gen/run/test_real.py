"""The real pictures that the page shows beside the made ones are those that the recipe knows, and only local ones."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

from cluster.process.stop_flag import StopFlag
from cluster.recipes.load import fingerprint
from gen.run.output import CLASSES, RECIPE
from gen.run.real import real_pictures
from shards.disk.home import home
from shards.disk.jpeg import encode_jpeg
from shards.disk.layout import META, RUN
from shards.disk.store import FolderStore
from shards.gallery_page import gallery_of_run, gallery_page
from shards.set.origin import origin_bytes
from shards.views import gallery
from tests.shards.views.test_gallery import Page
from tests.support.small_data_set import FINGERPRINT, picture, write_data_set

NAMES = ["zero", "one", "two", "crane", "crane"]
REAL = {"choose": "clip", "clip": {"model": "sandbox/models/clip"}}


def data_set(folder: Path, classes: object = "sandbox", **meanings: object) -> FolderStore:
    """A data set with five classes that says in its own recipe where its real pictures are."""
    store = write_data_set(folder)
    recipe = yaml.safe_load((home() / "recipes" / "sandbox.yaml").read_text(encoding="utf-8"))
    recipe["classes"] = {"source": classes, "per_class": 1}
    recipe["meanings"] = meanings
    rows = [[number, name, None, 1] for number, name in enumerate(NAMES)]
    store.replace(RECIPE, yaml.safe_dump(recipe).encode())
    store.replace(f"{META}/{CLASSES}", json.dumps(rows).encode())
    identity = {"name": "sandbox", "class_list": fingerprint(rows)}
    store.replace(RUN, origin_bytes(FINGERPRINT, {}, {"identity": identity, "prompts_sha256": "0" * 64}))
    return store


def photographs(folder: Path) -> Path:
    for number, name in ((0, "0000_zero"), (2, "0002_two")):
        (folder / name).mkdir(parents=True)
        for index in range(12):
            (folder / name / f"{index}.jpg").write_bytes(encode_jpeg(picture(number, index), source_type=None))
    return folder


def test_the_pictures_that_chose_the_meanings_are_taken(tmp_path: Path) -> None:
    real = photographs(tmp_path / "photos")
    found = real_pictures(data_set(tmp_path / "set", real=str(real), **REAL), 5)
    assert found is not None
    source, pictures = found
    assert source == str(real)
    shown = list(pictures)
    assert [class_id for class_id, _ in shown] == [0] * 5 + [2] * 5
    assert all(pixels.dtype == np.uint8 and pixels.shape == (32, 32, 3) for _, pixels in shown)


def test_a_class_list_that_is_a_folder_of_pictures_is_taken_otherwise(tmp_path: Path) -> None:
    real = photographs(tmp_path / "photos")
    found = real_pictures(data_set(tmp_path / "set", classes=str(real)), 3)
    assert found is not None
    assert [class_id for class_id, _ in found[1]] == [0] * 3 + [2] * 3


@pytest.mark.parametrize("real", ["s3://somebody/else", "/no/such/folder"])
def test_no_address_that_a_data_set_names_is_called(tmp_path: Path, real: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gen.run.real.read_real", lambda *args: pytest.fail(f"read {args[0]}"))
    assert real_pictures(data_set(tmp_path / "set", real=real, **REAL), 3) is None


def test_a_data_set_without_a_recipe_has_no_real_pictures(tmp_path: Path) -> None:
    assert real_pictures(write_data_set(tmp_path), 3) is None


def test_the_verb_puts_them_on_the_page_and_goes_without_them_where_the_recipe_is_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = data_set(tmp_path / "set", real=str(photographs(tmp_path / "photos")), **REAL)
    folder = gallery_page(str(store.root)).parent
    assert sum("/real/" in address for address in Page(folder / "class-0000.html").values("img", "src")) == 8
    assert "real pictures" not in capsys.readouterr().err
    store.replace(RECIPE, b"name: [")
    folder = gallery_page(str(store.root)).parent
    assert not (folder / "__thumbs" / "real").exists()
    assert "the page shows no real pictures: " in capsys.readouterr().err


def test_a_gallery_that_fails_after_a_run_is_one_line_that_says_how_to_make_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_data_set(tmp_path / "a set").root
    gallery_of_run(f"file://{root}", StopFlag())
    assert capsys.readouterr().out == f"gallery: {root}/_meta/gallery/index.html\n"

    def full(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for fault in (full, lambda *args, **options: {}["a fault of ours"]):
        monkeypatch.setattr("shards.gallery_page.write_gallery", fault)
        gallery_of_run(str(root), StopFlag())
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith("sixfold: no gallery (")
        assert said.err.endswith(f"; `sixfold show '{root}'` writes it\n")
        assert said.err.count("\n") == 1


def test_a_stop_request_before_the_gallery_or_in_its_midst_ends_it_and_leaves_the_one_that_was_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_data_set(tmp_path / "set", num_shards=3).root
    ended = f"sixfold: no gallery (stopped on request (SIGUSR1)); `sixfold show {root}` writes it\n"
    stopped = StopFlag()
    stopped.request("SIGUSR1")
    gallery_of_run(str(root), stopped)
    assert capsys.readouterr().err == ended
    assert not (root / META / "gallery").exists()
    page = gallery_page(str(root))
    before = page.stat().st_mtime_ns
    read, stop, shards = gallery.read_table, StopFlag(), []

    def read_once(*args: Any) -> pa.Table:
        shards.append(args[1])
        stop.request("SIGUSR1")
        return read(*args)

    monkeypatch.setattr("shards.views.gallery.read_table", read_once)
    gallery_of_run(str(root), stop)
    assert capsys.readouterr().err.endswith(ended)
    assert (len(shards), page.stat().st_mtime_ns) == (1, before)
    assert [path.name for path in page.parent.parent.iterdir() if path.name.startswith(".gallery")] == []

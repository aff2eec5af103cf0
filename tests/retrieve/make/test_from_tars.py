"""Retrieved images from a pool's tars: in the shards of the house, upright, without borders, with their reasons."""

import contextlib
import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from gen.make.refill import UnitWorker
from retrieve.make import from_tars
from retrieve.make.candidates import CANDIDATES, SCHEMA, table_bytes
from retrieve.make.from_tars import make_from_tars_worker
from retrieve.make.pictures import as_picture
from retrieve.pool.images import PoolImages
from shards.disk.jpeg import encode_jpeg
from shards.disk.store import open_for_reading, open_store
from shards.set.manifest import read_member, read_table
from tests.support.small_pool import pool_of, retrieve_job, write_table, write_tar_of


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)


def jpeg_of(pixels: np.ndarray) -> bytes:
    return encode_jpeg(pixels, source_type=None)


def file_of(pixels: np.ndarray, **fields: object) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, **fields)
    return sink.getvalue()


# pictures


def test_a_plain_jpeg_of_the_right_size_is_stored_as_it_is():
    data = jpeg_of(noise(64, 64))
    assert as_picture(data, 64).jpeg == data
    assert as_picture(data, None).jpeg == data


@pytest.mark.parametrize("what", ["exif", "png", "grey"])
def test_what_says_more_than_its_pixels_or_is_no_rgb_jpeg_is_encoded_anew(what):
    exif = Image.Exif()
    exif[0x010F] = "camera"
    data = {
        "exif": file_of(noise(64, 64), format="JPEG", exif=exif),
        "png": file_of(noise(64, 64), format="PNG"),
        "grey": file_of(noise(64, 64)[..., 0], format="JPEG"),
    }[what]
    picture = as_picture(data, 64)
    assert picture.jpeg is None
    assert picture.image_HWC.shape == (64, 64, 3)


@pytest.mark.parametrize(("height", "width"), [(200, 100), (100, 200), (50, 90)])
def test_the_middle_is_cut_out_at_the_size_and_nothing_is_padded(height, width):
    """A picture that is dark but for its middle square stays without a border of either."""
    pixels = np.zeros((height, width, 3), np.uint8)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    pixels[top : top + side, left : left + side] = 200
    picture = as_picture(file_of(pixels, format="PNG"), 64)
    assert picture.image_HWC.shape == (64, 64, 3)
    assert (picture.image_HWC == 200).all()
    assert picture.columns == {"original_width": width, "original_height": height}


@pytest.mark.parametrize(
    ("data", "status", "said"),
    [
        (b"<!DOCTYPE html><p>gone", "failed_to_decode", "web page"),
        (jpeg_of(noise(64, 64))[:200], "failed_to_decode", "no whole picture"),
        (b"", "failed_to_decode", "0 bytes"),
        (file_of(noise(4, 64), format="PNG"), "too_small", "64 x 4 pixels"),
    ],
    ids=["page", "cut", "empty", "small"],
)
def test_what_is_no_picture_has_a_status_and_says_what_was_found(data, status, said):
    picture = as_picture(data, 64)
    assert (picture.status, picture.image_HWC) == (status, None)
    assert said in picture.error


# shards


def worker_of(
    folder: Path, pictures: dict[str, bytes], ranks: dict[int, list[str]], block: Sequence[str] = (),
    told: Mapping[str, list[object]] = {}, **fields: object,
) -> UnitWorker:  # fmt: skip
    """A pool of one tar; `ranks`: class -> keys in their order; `told`: other columns of the candidates."""
    pool = folder / "pool"
    pool.mkdir()
    write_tar_of(pool / "00000.tar", pictures)
    keys = list(pictures)
    write_table(pool / "00000.parquet", caption=[f"caption {key}" for key in keys], key=keys)
    rows = [(class_id, rank, key) for class_id, own in sorted(ranks.items()) for rank, key in enumerate(own)]
    columns = {
        "class_id": [class_id for class_id, _, _ in rows],
        "rank": [rank for _, rank, _ in rows],
        "row": [keys.index(key) if key in keys else 0 for _, _, key in rows],
        "score": [0.5] * len(rows),
        "caption": [f"caption {key}" for _, _, key in rows],
        "shard": ["00000"] * len(rows),
        "key": [key for _, _, key in rows],
    }
    nothing = {name: [None] * len(rows) for name in SCHEMA.names}
    store = open_store(str(folder / "out"))
    store.replace(CANDIDATES, table_bytes(pa.table({**nothing, **columns, **told}, schema=SCHEMA)))
    job = retrieve_job(
        {0: 2, 1: 2}, 1, out=folder / "out", pool={"source": str(pool), "block": block}, size_px=64, **fields
    )
    return make_from_tars_worker(job.model_dump(mode="json"))


def rows_of(folder: Path) -> list[dict[str, object]]:
    return read_table(open_for_reading(str(folder / "out")), [0]).to_pylist()


def test_a_worker_with_other_tars_than_the_driver_s_refuses(tmp_path):
    ranks = {0: ["000000000"]}
    for name, side, digest in (("driver", 64, None), ("same", 64, "driver"), ("other", 65, "driver")):
        (tmp_path / name).mkdir()
        told = None if digest is None else pool_of(tmp_path / digest / "pool").tars_digest
        expects = pytest.raises(ValueError, match="found other tars here than the run was planned with; give every")
        with expects if name == "other" else contextlib.nullcontext():
            worker_of(tmp_path / name, {"000000000": jpeg_of(noise(side, 64))}, ranks, tars_digest=told)


def test_a_shard_holds_the_pictures_in_the_order_of_the_plan_and_says_where_they_are_from(tmp_path):
    pictures = {f"00000000{place}": jpeg_of(noise(64, 64, place)) for place in range(4)}
    keys = list(pictures)
    worker = worker_of(tmp_path, pictures, {0: keys[:2], 1: keys[2:]}, licence="CC-BY-4.0")
    done = worker(0, "one", lambda *_: None)
    assert (done["images"], done["short"]) == (4, 0)
    rows = rows_of(tmp_path)
    assert {(row["class_id"], row["caption"]) for row in rows} == {
        (0, f"caption {keys[0]}"),
        (0, f"caption {keys[1]}"),
        (1, f"caption {keys[2]}"),
        (1, f"caption {keys[3]}"),
    }
    assert {(row["domain"], row["licence"], row["similarity"]) for row in rows} == {("retrieved", "CC-BY-4.0", 0.5)}
    store = open_for_reading(str(tmp_path / "out"))
    stored = {row["caption"].removeprefix("caption "): read_member(store, row) for row in rows}
    assert stored == pictures


def test_the_next_candidate_takes_the_place_of_a_broken_one_and_both_have_rows(tmp_path):
    good = {f"00000000{place}": jpeg_of(noise(64, 64, place)) for place in range(4)}
    pictures = {**good, "000000004": b"<html>gone</html>"}
    keys = list(good)
    ranks = {0: ["000000004", keys[0], keys[1]], 1: [keys[2], keys[3]]}
    done = worker_of(tmp_path, pictures, ranks)(0, "one", lambda *_: None)
    assert (done["images"], done["short"], done["rejected"]) == (4, 0, {"failed_to_decode": 1})
    broken = next(row for row in rows_of(tmp_path) if row["status"] != "success")
    assert (broken["draw"], broken["caption"]) == (0, "caption 000000004")
    assert "web page" in broken["error_message"]


def test_a_class_without_enough_candidates_is_reported_short_with_a_row_for_each(tmp_path):
    pictures = {f"00000000{place}": jpeg_of(noise(64, 64, place)) for place in range(3)}
    keys = list(pictures)
    done = worker_of(tmp_path, pictures, {0: keys[:2], 1: keys[2:]})(0, "one", lambda *_: None)
    assert (done["images"], done["short"], done["rejected"]) == (3, 1, {"no_candidate": 1})


def test_a_picture_that_is_not_in_its_tar_is_a_row_that_names_the_tar(tmp_path):
    pictures = {f"00000000{place}": jpeg_of(noise(64, 64, place)) for place in range(3)}
    keys = list(pictures)
    done = worker_of(tmp_path, pictures, {0: keys[:2], 1: [keys[2], "000000009"]})(0, "one", lambda *_: None)
    assert done["rejected"] == {"failed_to_read": 1}
    assert any("00000.tar: found no picture 000000009" in str(row["error_message"]) for row in rows_of(tmp_path))


def test_a_picture_whose_hash_is_on_a_block_list_is_not_decoded_though_the_table_says_no_hash(tmp_path, monkeypatch):
    pictures = {f"00000000{place}": jpeg_of(noise(64, 64, place)) for place in range(5)}
    keys = list(pictures)
    (tmp_path / "block.txt").write_text(hashlib.sha256(pictures[keys[0]]).hexdigest())
    seen = []
    monkeypatch.setattr(from_tars, "as_picture", lambda data, size: seen.append(data) or as_picture(data, size))
    ranks = {0: [keys[0], keys[1], keys[4]], 1: keys[2:4]}
    done = worker_of(tmp_path, pictures, ranks, block=[str(tmp_path / "block.txt")])(0, "one", lambda *_: None)
    assert (done["images"], done["short"], done["rejected"]) == (4, 0, {"blocked": 1})
    assert pictures[keys[0]] not in seen
    (row,) = [row for row in rows_of(tmp_path) if row["status"] == "blocked"]
    assert (row["caption"], row["url"], row["similarity"]) == ("", None, None)


def test_a_candidate_whose_address_or_listed_hash_was_blocked_after_the_search_is_not_read(tmp_path):
    pictures = {f"00000000{place}": jpeg_of(noise(64, 64, place)) for place in range(5)}
    keys = list(pictures)
    (tmp_path / "block.txt").write_text("http://a/0\n")
    ranks = {0: [keys[0], keys[1], keys[4]], 1: keys[2:4]}
    told = {"url": [f"http://a/{place}" for place in range(5)]}
    worker = worker_of(tmp_path, pictures, ranks, block=[str(tmp_path / "block.txt")], told=told)
    assert worker(0, "one", lambda *_: None)["rejected"] == {"blocked": 1}


def test_two_attempts_at_a_unit_give_the_same_bytes(tmp_path):
    pictures = {f"00000000{place}": jpeg_of(noise(64, 64, place)) for place in range(4)}
    keys = list(pictures)
    tars = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        worker_of(tmp_path / name, pictures, {0: keys[:2], 1: keys[2:]})(0, name, lambda *_: None)
        tars.append((tmp_path / name / "out" / "00000.tar").read_bytes())
    assert tars[0] == tars[1]


def test_a_tar_of_the_pool_that_was_cut_is_named(tmp_path):
    pictures = {f"00000000{place}": jpeg_of(noise(64, 64, place)) for place in range(4)}
    (tmp_path / "pool").mkdir()
    write_tar_of(tmp_path / "pool" / "00000.tar", pictures)
    write_table(tmp_path / "pool" / "00000.parquet", caption=list(pictures), key=list(pictures))
    tar = tmp_path / "pool" / "00000.tar"
    tar.write_bytes(tar.read_bytes()[:9000])
    images = PoolImages(pool_of(tmp_path / "pool"))
    with pytest.raises(ValueError, match=r"00000.tar: offset \d+: .*cut short"):
        images.read(images.places([0])[0])

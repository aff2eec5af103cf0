"""Tables of a pool that is tars alone: a row a picture, from its .txt and .json, and a search that reads them."""

import io
import json
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import sixfold
from retrieve.pool.images import PoolImages
from retrieve.pool.pool import KEPT
from retrieve.pool.tables import Written, write_tables
from tests.support.small_pool import pool_of, write_table, write_tar


def add(path: Path, *samples: tuple[str, bytes]) -> None:
    """Members of a tar, by name; the pictures are no pictures, for nobody decodes them."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in samples:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def told(**values: object) -> bytes:
    return json.dumps(values).encode()


def said(*words: str) -> str:
    done = CliRunner().invoke(sixfold.command_line(), ["pool", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two tars; of the first a row that is unsafe, one without a caption, and a text without a picture."""
    add(
        tmp_path / "birds-0.tar",
        *(("a/1.jpg", b"one"), ("a/1.txt", b" a crane\n"), ("a/1.json", told(URL="http://x/1", width=40, text="no"))),
        *(("2.png", b"two"), ("2.json", told(caption="a die", punsafe="0.9", license="CC0"))),
        *(("3.jpg", b"three"), ("3.json", b"[1]"), ("4.txt", b"alone")),
    )
    write_tar(tmp_path / "birds-1.tar", {"7": 30, "8": 60})
    return tmp_path


def test_every_picture_has_a_row_and_is_found_by_it(folder: Path) -> None:
    assert write_tables(folder) == Written(tables=2, rows=5, without_caption=1)
    pool = pool_of(folder)
    rows = pool.take(range(5), ["caption", "url", "licence", "width"]).to_pylist()
    assert [row["caption"] for row in rows] == ["a crane", "a die", "", "grey", "grey"]
    assert (rows[0]["url"], rows[0]["width"], rows[1]["licence"]) == ("http://x/1", 40, "CC0")
    assert [row[KEPT] for row in rows] == [True, False, True, True, True], "the second one's tar calls it unsafe"
    images = PoolImages(pool)
    places = images.places(range(5))
    assert [images.read(place) for place in places[:3]] == [b"one", b"two", b"three"]
    assert [(place.shard, place.key) for place in places[3:]] == [("birds-1", "7"), ("birds-1", "8")]


@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf"], ids=["plain", "with a byte order mark"])
def test_a_json_with_nan_or_a_byte_order_mark_still_says_that_its_picture_is_unsafe(
    tmp_path: Path, before: bytes
) -> None:
    unsafe = told(nsfw="NSFW", punsafe=0.99, similarity=float("nan"), width=16.0, height=float("nan"))
    add(
        tmp_path / "0.tar",
        *(("1.jpg", b"one"), ("1.txt", b"a crane"), ("1.json", before + unsafe)),
        *(("2.jpg", b"two"), ("2.txt", b"a die"), ("2.json", before + told(punsafe=float("inf")))),
        *(("3.jpg", b"three"), ("3.txt", b"a die"), ("3.json", before + told(punsafe=float("nan")))),
    )
    write_tables(tmp_path)
    taken = pool_of(tmp_path).take(range(3), ["nsfw", "punsafe", "width", "height"])
    assert taken[KEPT].to_pylist() == [False, False, True]
    first = taken.to_pylist()[0]
    assert (first["nsfw"], first["punsafe"], first["width"], first["height"]) == ("NSFW", 0.99, 16, None)


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b'{"nsfw": "NSFW"', b"[" * 100_000, '{"nsfw": "NSFW", "by": "Zoë"}'.encode("latin-1")]
)
def test_a_json_that_cannot_be_read_is_named_and_not_taken_for_one_that_says_nothing(
    tmp_path: Path, data: bytes
) -> None:
    add(tmp_path / "0.tar", ("1.jpg", b"one"), ("1.txt", b"a crane"), ("1.json", data))
    with pytest.raises(
        ValueError, match=r"0\.tar: '1': found a \.json that cannot be read, .*; mend or remove it"
    ) as error:
        write_tables(tmp_path)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("*.parquet"))


def test_a_table_that_is_there_is_left_and_the_rest_is_written(folder: Path) -> None:
    write_table(folder / "birds-0.parquet", key=["2"], caption=["mine"])
    assert write_tables(folder) == Written(tables=1, rows=2, without_caption=0)
    assert pq.read_table(folder / "birds-0.parquet").to_pylist() == [{"key": "2", "caption": "mine"}]
    assert write_tables(folder) == Written(0, 0, 0)


def test_tars_that_say_nothing_and_tables_of_something_else_are_refused(folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match=r"empty: found no \*\.tar, expected some"):
        write_tables(empty)
    add(empty / "0.tar", ("1.jpg", b"one"), ("1.json", told(label=3)))
    with pytest.raises(ValueError, match=r"0\.tar: found no caption of its 1 pictures, expected a \.txt, or a \.json"):
        write_tables(empty)
    add(empty / "0.tar", ("1.jpg", b"one"), ("1.json", told(caption="x", punsafe="maybe")))
    with pytest.raises(ValueError, match=r"0\.tar: '1': punsafe: found 'maybe', expected a number"):
        write_tables(empty)
    write_table(folder / "all.parquet", caption=["x"])
    with pytest.raises(ValueError, match=r"all\.parquet: found a table that is of none of the tars"):
        write_tables(folder)


def test_the_command_that_finds_no_tables_names_the_one_that_writes_them(folder: Path) -> None:
    with pytest.raises(
        ValueError, match=r"found 2 tars and no \*\.parquet.*`sixfold pool .* --write-tables` makes them"
    ):
        said(str(folder))
    line = said(str(folder), "--write-tables", "pool.unsafe_above=0.95")
    assert "2 tables written, 5 rows; 1 have no caption" in line
    assert "5 may leave, 0 are flagged" in line


@pytest.mark.parametrize("field", ["columns.caption", "pool.columns.caption"])
def test_fields_are_named_as_in_a_recipe_or_without_its_word(tmp_path: Path, field: str) -> None:
    write_table(tmp_path / "0.parquet", words=["a crane"])
    assert "caption = 'words'" in said(str(tmp_path), f"{field}=words")

"""An address has one spelling, wherever it stands: home folders, file://, empty parts, keys in it."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from shards.disk.address import LocalPath, file_path, local_root, one_spelling, places_of
from shards.disk.home import home
from shards.disk.object_store import ObjectStore
from shards.disk.store import open_for_reading, open_store
from shards.labels.classes import ClassSpec, load_classes
from shards.set.manifest import scan_records
from shards.set.verify import verify
from tests.support.shard_rows import write_shard

CANARY = "CANARY9f31c0"


class Part(BaseModel):
    """As a part of a recipe names a file."""

    file: LocalPath


@pytest.fixture
def my_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me").mkdir()
    return tmp_path / "me"


@pytest.mark.parametrize("text", ["~/x", "{home}/x", "file://{home}/x", "file://localhost{home}/x", "me/x", "~//x/"])
def test_a_folder_is_one_place_however_it_is_written(text: str, my_home: Path) -> None:
    written = text.format(home=my_home)
    assert local_root(written) == my_home / "x"
    assert one_spelling(written) == str(my_home / "x")
    assert file_path(written).absolute() == Part(file=written).file.absolute() == my_home / "x"  # type: ignore[arg-type]
    assert open_store(written).url == str(my_home / "x")
    assert open_for_reading(written).url == str(my_home / "x")
    assert [path.name for path in my_home.parent.iterdir()] == ["me"], "no folder called ~ or localhost"


def test_a_class_list_is_found_in_the_home_folder(my_home: Path) -> None:
    (my_home / "names.txt").write_text("crane\nzebra\n")
    (my_home / "counts.txt").write_text("3\n4\n")
    for names in ("~/names.txt", f"file://{my_home}/names.txt"):
        found = load_classes(ClassSpec(source=names, counts="~/counts.txt"))
        assert [(one.name, one.count) for one in found] == [("crane", 3), ("zebra", 4)]


def test_what_ships_with_sixfold_is_found_from_any_folder(my_home: Path) -> None:
    assert places_of("sandbox/models") == [Path("sandbox/models"), home() / "sandbox/models"]
    assert places_of("~/m") == [my_home / "m"]


@pytest.mark.parametrize("text", ["s3://bucket//x", "s3://bucket/x/", "S3://bucket/x", "s3://bucket///x//"])
def test_an_object_store_is_one_place_however_it_is_written(text: str) -> None:
    assert one_spelling(text) == "s3://bucket/x"


def test_shards_written_under_one_spelling_are_read_under_another() -> None:
    written = open_store("memory://twice//spelled/")
    assert isinstance(written, ObjectStore)
    write_shard(written, 0)
    for text in ("memory://twice/spelled", "memory:///twice//spelled", "MEMORY://twice/spelled//"):
        store = open_for_reading(text)
        assert store.url == "memory://twice/spelled"
        assert sorted(scan_records(store)) == [0]
        assert verify(store).damages == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("s3:/bucket/x", "found one slash behind s3:"),
        ("s3://", "found no bucket"),
        ("s3:///x", "found no bucket"),
        ("s3://bucket/../other", r"found '\.' or '\.\.'"),
        ("s3://bucket/./x", r"found '\.' or '\.\.'"),
        ("file://server/share/x", "found the machine 'server'"),
        ("file:///data/my%20set", "found %-signs"),
        ("~nobody-of-this-name/x", "found no home folder of that user"),
        (f"s3://KEY:{CANARY}@bucket/x", "found a user or a key in the address"),
        (f"s3://{CANARY}@bucket/x", "found a user or a key in the address"),
        (f"S3://{CANARY}@bucket/x", "found a user or a key in the address"),
        (f"S3a://{CANARY}@bucket/x", "found a user or a key in the address"),
        (f"s3://KEY%3A{CANARY}%40bucket/x", "found a user or a key in the address"),
        (f"s3://bucket/x?X-Amz-Signature={CANARY}", "found a query in the address"),
        (f"https://h.example/x?token={CANARY}", "found a query in the address"),
    ],
)
def test_an_address_of_two_meanings_or_with_a_key_is_refused_in_a_line_without_it(text: str, words: str) -> None:
    for opened in (open_store, open_for_reading, one_spelling, local_root):
        with pytest.raises(ValueError, match=words) as caught:
            opened(text)
        assert CANARY not in str(caught.value)
        assert "\n" not in str(caught.value)
        assert caught.value.__suppress_context__ or caught.value.__context__ is None, "--debug shows no secret either"


@pytest.mark.parametrize("text", ["s3://bucket/x.csv", "memory://x", "https://h.example/x", "s3:/bucket/x.csv"])
def test_an_address_is_no_path_of_this_machine(text: str) -> None:
    with pytest.raises(ValueError, match=r"found an address, expected a path|found one slash"):
        file_path(text)


@pytest.mark.parametrize("text", ["a{b}*.csv", "a::b", "s3:x", "with blank/ü"])
def test_other_names_of_files_are_what_they_are(text: str) -> None:
    assert file_path(text) == Path(text)

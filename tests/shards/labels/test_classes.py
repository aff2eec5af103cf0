"""Classes: the labels of a data set and the number of real images of each."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from shards.disk.home import home
from shards.labels.classes import Class, ClassSpec, clean_name, load_classes
from shards.set.status import write_summary
from tests.support.small_data_set import write_data_set

REPO = home()
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def refused(spec: ClassSpec) -> str:
    with pytest.raises(ValueError) as caught:
        load_classes(spec)
    message = str(caught.value)
    assert "\n" not in message
    assert "found" in message
    assert len(message) < 600
    return message


# shipped lists


def test_the_sandbox_has_ten_digits_with_twenty_images_each():
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    assert load_classes(ClassSpec(source="sandbox")) == [Class(i, name, None, 20) for i, name in enumerate(names)]


def test_imagenet_has_1000_sorted_wordnet_ids_and_the_size_of_the_real_set():
    classes = load_classes(ClassSpec(source="imagenet-1k", total=1_281_167))
    assert [one.id for one in classes] == list(range(1000))
    wordnet_ids = [one.wordnet_id or "" for one in classes]
    assert wordnet_ids == sorted(set(wordnet_ids))
    assert sum(one.count for one in classes) == 1_281_167
    assert {one.count for one in classes} == {1281, 1282}
    assert classes[0] == Class(0, "tench", "n01440764", 1281)
    assert (classes[207].name, classes[207].wordnet_id) == ("Golden Retriever", "n02099601")
    assert (classes[999].name, classes[999].wordnet_id) == ("toilet paper", "n15075141")


def test_two_classes_with_one_name_keep_two_ids():
    classes = load_classes(ClassSpec(source="imagenet-1k", per_class=1))
    twins = {name: [one.id for one in classes if one.name == name] for name in ("missile", "sunglasses")}
    assert twins == {"missile": [657, 744], "sunglasses": [836, 837]}
    assert len({one.name for one in classes}) == 998


def test_reading_imagenet_imports_no_model_library():
    program = (
        "import sys\n"
        "from shards.labels.classes import ClassSpec, load_classes\n"
        "load_classes(ClassSpec(source='imagenet-1k', per_class=1))\n"
        "print({'torch', 'timm', 'open_clip', 'ray'} & set(sys.modules))\n"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=REPO, capture_output=True, check=True, timeout=200)
    assert run.stdout.strip() == b"set()"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("imagenet1k", "did you mean imagenet-1k?"),
        ("ImageNet-1K", "did you mean imagenet-1k?"),
        ("sandbx", "did you mean sandbox?"),
        ("/no/such/place", "shipped lists are sandbox, imagenet-1k"),
        ("no-such-file.csv", "expected a shipped list, a file or a folder"),
        ("a\nb\x1b[31m", "'a⟨U+000A⟩b⟨U+001B⟩[31m'"),
    ],
)
def test_an_unknown_source_is_refused_with_the_nearest_name(source, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert words in refused(ClassSpec(source=source))


# files


def test_a_text_file_has_one_name_a_line(tmp_path):
    source = write(tmp_path / "names.txt", "\ufeffgreat auk\r\n\r\n  Kakapo \ncafé\n")
    classes = load_classes(ClassSpec(source=source, per_class=3))
    assert classes == [Class(0, "great auk", None, 3), Class(1, "Kakapo", None, 3), Class(2, "café", None, 3)]


def test_a_csv_file_has_a_header_and_keeps_its_ids(tmp_path):
    source = write(tmp_path / "c.csv", 'name,id,count,wordnet_id\n"crane, bird",134,7,n02012849\ncrane,5,8,\n')
    assert load_classes(ClassSpec(source=source)) == [
        Class(5, "crane", None, 8),
        Class(134, "crane, bird", "n02012849", 7),
    ]


def test_a_json_file_has_names_or_objects(tmp_path):
    items = ["auk", {"name": "crane", "id": 9, "count": 4, "wordnet_id": None}]
    source = write(tmp_path / "c.json", json.dumps(items))
    assert load_classes(ClassSpec(source=source, per_class=2)) == [Class(0, "auk", None, 2), Class(9, "crane", None, 2)]
    assert load_classes(ClassSpec(source=source, per_class=2, limit=1)) == [Class(0, "auk", None, 2)]


def test_a_csv_or_json_list_may_say_which_sense_is_meant_and_what_kind_it_is(tmp_path):
    lines = 'name,meaning,kind\ncrane,"crane,  the bird ",animal\nseven,,\n'
    rows = [{"name": "crane", "meaning": "crane,  the bird", "kind": "animal"}, "seven"]
    for source in (write(tmp_path / "c.csv", lines), write(tmp_path / "c.json", json.dumps(rows))):
        assert load_classes(ClassSpec(source=source, per_class=1)) == [
            Class(0, "crane", None, 1, "crane,  the bird", "animal"),
            Class(1, "seven", None, 1),
        ]


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        (
            "c.csv",
            "name,count,kind\ncrane,1,animl\n",
            "class 0: found the kind 'animl', expected one of animal, pet, ",
        ),
        ("c.csv", "name,count,kind\ncrane,1,animl\n", "did you mean animal?"),
        ("c.csv", "name,count,meaning\ncrane,1,a\x00b\n", "class 0, meaning: found the control character U+0000"),
        ("c.txt", "", "found no classes"),
        ("c.txt", "a\nb\x00c\n", "class 1: found the control character U+0000"),
        ("c.txt", "a\x1b[31mb\n", "control character U+001B"),
        ("c.txt", "a\u2028b\n", "control character U+2028"),
        ("c.txt", "\u200b".join("x" * 150) + "\n", "a name of 299 characters"),
        ("c.csv", "", "found the header ''"),
        ("c.csv", "zero\none\n", "found the header 'zero', expected `name`"),
        ("c.csv", "name,cuont\nzero,5\n", "found the header 'name,cuont'"),
        ("c.csv", "name,name\nzero,5\n", "found the header 'name,name'"),
        ("c.csv", "name,count\n", "found no classes"),
        ("c.csv", "name,count\nzero\n", "line 2: found 1 fields, expected 2"),
        ("c.csv", "name,count\nzero,many\n", "line 2, count: found 'many', expected a whole number"),
        ("c.csv", "name,count\nzero,0\n", "class 0 (zero): found count 0"),
        ("c.csv", "name,count\nzero,-5\n", "class 0 (zero): found count -5"),
        ("c.csv", "name,count\nzero,1.5\n", "found '1.5', expected a whole number"),
        ("c.csv", "name,count\nzero,2000000000\n", "found count 2000000000"),
        ("c.csv", "name,count\nzero,\n", "no count for class 0 (zero)"),
        ("c.csv", "name,count\n ,5\n", "class 0: found an empty name"),
        ("c.csv", 'name,count\n"zero,5\n', "broken CSV"),
        ("c.csv", "id,name,count\n1,a,5\n2,b,5\n1,c,5\n", "found id 1 for 'a', 'c', expected one class per id"),
        ("c.csv", "id,name,count\n-1,a,5\n", "found class id -1"),
        ("c.csv", "id,name,count\n2147483648,a,5\n", "found class id 2147483648"),
        ("c.csv", "name,wordnet_id,count\na,crane,5\n", "found the WordNet id 'crane'"),
        ("c.json", "{", "found broken JSON"),
        ("c.json", "[" * 100_000, "found broken JSON"),
        ("c.json", '{"zero": 5}', "found a dict, expected a list"),
        ("c.json", '[{"nmae": "zero"}]', "item 0: found"),
        ("c.json", '["a", 5]', "item 1: found 5"),
        ("c.json", '[{"name": "a", "count": 1.5}]', "expected text and whole numbers"),
        ("c.json", '[{"name": "a", "count": true}]', "expected text and whole numbers"),
        ("c.json", '["\\ud800"]', "control character U+D800"),
        ("c.yaml", "- zero\n", "a file ending in '.yaml', expected one of .csv, .json, .txt"),
        ("c.txt", "zero\none\n", "no count for class 0 (zero)"),
    ],
)
def test_a_bad_list_is_refused_in_one_line_that_names_the_place(tmp_path, file, text, words):
    assert words in refused(ClassSpec(source=write(tmp_path / file, text)))


def test_a_file_that_is_not_utf8_or_not_there_is_refused(tmp_path):
    (tmp_path / "c.txt").write_bytes(b"caf\xe9\n")
    assert "not UTF-8 at 3" in refused(ClassSpec(source=str(tmp_path / "c.txt")))
    assert "no such file" in refused(ClassSpec(source="sandbox", counts=str(tmp_path / "counts.txt")))
    assert "cannot be read" in refused(ClassSpec(source="sandbox", counts=str(tmp_path)))


@given(st.text(max_size=220))
@settings(max_examples=300, deadline=None)
def test_a_name_is_one_line_of_text_or_refused(name):
    try:
        cleaned = clean_name(name, "here")
    except ValueError:
        return
    assert cleaned == clean_name(cleaned, "here")
    assert len(cleaned.splitlines()) == 1
    assert 1 <= len(cleaned) <= 200
    cleaned.encode("utf-8")


def test_a_name_has_one_spelling():
    """A file system or editor may decompose accents; two spellings would be two prompts."""
    assert clean_name("cafe\u0301", "here") == clean_name("caf\u00e9", "here") == "caf\u00e9"


# counts


@given(st.integers(10, 10_000))
@settings(max_examples=50, deadline=None)
def test_a_total_is_spread_within_one(total):
    counts = [one.count for one in load_classes(ClassSpec(source="sandbox", total=total))]
    assert sum(counts) == total
    assert max(counts) - min(counts) <= 1


def test_counts_come_from_the_recipe_or_from_a_file(tmp_path):
    tuned = list(range(1, 11))
    assert [one.count for one in load_classes(ClassSpec(source="sandbox", counts=tuple(tuned)))] == tuned
    file = write(tmp_path / "counts.txt", "".join(f"{count}\n" for count in tuned))
    assert [one.count for one in load_classes(ClassSpec(source="sandbox", counts=file))] == tuned
    assert [one.count for one in load_classes(ClassSpec(source="sandbox", per_class=7))] == [7] * 10


def test_counts_that_do_not_fit_are_refused(tmp_path):
    assert "found 3 counts, expected one for each of 10" in refused(ClassSpec(source="sandbox", counts=(1, 2, 3)))
    assert "class 1: found count 0" in refused(ClassSpec(source="sandbox", counts=(1, 0, *[1] * 8)))
    file = write(tmp_path / "counts.txt", "1\ntwo\n")
    assert "counts.txt, line 2: found 'two'" in refused(ClassSpec(source="sandbox", counts=file))
    assert "found per_class and total, expected only one" in refused(ClassSpec(source="sandbox", per_class=1, total=10))
    assert "expected at least one image for 10 classes" in refused(ClassSpec(source="sandbox", total=9))
    with pytest.raises(ValidationError):
        ClassSpec(source="sandbox", per_class=0)
    with pytest.raises(ValidationError):
        ClassSpec(source="")
    with pytest.raises(ValidationError, match="Extra inputs"):
        ClassSpec.model_validate({"source": "sandbox", "perclass": 5})


# real sets


def fill_folder(folder: Path, files: dict[str, int]) -> Path:
    for name, count in files.items():
        (folder / name / "nested").mkdir(parents=True)
        for index in range(count):
            (folder / name / ("nested" if index % 2 else ".") / f"{index}.JPEG").touch()
        (folder / name / "notes.md").touch()
    return folder


def test_an_image_folder_of_our_own_export_keeps_its_ids():
    classes = load_classes(ClassSpec(source=str(REPO / "sandbox" / "real-train")))
    assert [(one.id, one.name, one.count) for one in classes] == [
        (index, name, 20) for index, name in enumerate(NUMBERS)
    ]


def test_an_image_folder_gives_sorted_classes_with_the_counts_of_the_real_set(tmp_path):
    folder = fill_folder(tmp_path / "train", {"zebra": 3, "Ant": 2, "crane": 5})
    (folder / ".cache").mkdir()
    (folder / "README.txt").touch()
    assert load_classes(ClassSpec(source=str(folder))) == [
        Class(0, "Ant", None, 2),
        Class(1, "crane", None, 5),
        Class(2, "zebra", None, 3),
    ]


def test_folders_named_by_wordnet_id_get_their_imagenet_names(tmp_path):
    folder = fill_folder(tmp_path / "train", {"n02012849": 2, "n01440764": 1, "n04008634": 1, "n00005787": 1})
    assert load_classes(ClassSpec(source=str(folder))) == [
        Class(0, "benthos", "n00005787", 1),
        Class(1, "tench", "n01440764", 1),
        Class(2, "crane bird", "n02012849", 2),
        Class(3, "missile", "n04008634", 1),
    ]


def test_a_folder_without_classes_or_images_is_refused(tmp_path):
    assert "found no class folders" in refused(ClassSpec(source=str(tmp_path)))
    fill_folder(tmp_path, {"ant": 1, "bee": 0})
    assert "bee: found no images" in refused(ClassSpec(source=str(tmp_path)))


def test_a_data_set_of_ours_gives_ids_names_and_the_counts_of_its_samples(tmp_path):
    """Rejected draws do not count; two classes may share the name crane."""
    write_data_set(tmp_path / "real", num_shards=2, num_slots=12, num_rejected=3)
    before = sorted(os.listdir(tmp_path / "real"))
    classes = load_classes(ClassSpec(source=str(tmp_path / "real")))
    assert [(one.id, one.name) for one in classes] == list(enumerate(("zero", "one", "two", "crane", "crane")))
    assert [one.count for one in classes] == [5, 5, 5, 5, 4]
    assert sorted(os.listdir(tmp_path / "real")) == before


def test_a_data_set_that_is_not_finished_is_no_class_list(tmp_path):
    store = write_data_set(tmp_path / "real", num_shards=1)
    write_summary(store, {"asked": {"units": 10}, "exit_code": None})
    line = refused(ClassSpec(source=str(tmp_path / "real")))
    assert line.startswith("class list (")
    assert "found 1 of the 10 shards that the last call was asked for" in line
    assert line.endswith("or give a list of the classes")


def test_k1_a_secret_in_an_address_is_not_repeated():
    for source in ("memory://user:hunter2@empty/x?token=hunter2", "nosuch://user:hunter2@host/x"):
        assert "hunter2" not in refused(ClassSpec(source=source))


def test_a_data_set_that_gives_one_id_two_names_is_refused(tmp_path):
    def rename(shard: int, index: int, row: dict[str, object]) -> dict[str, object]:
        return {**row, "class_name": "cero"} if shard == 1 and row["class_id"] == 0 else row

    write_data_set(tmp_path / "real", change=rename)
    assert "found id 0 for 'zero', 'cero'" in refused(ClassSpec(source=str(tmp_path / "real")))

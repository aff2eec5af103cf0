"""A filter of a data set: what stays is a subset with its rule, the reasons of all are a table, no tar changes."""

import hashlib
from collections import Counter

import pytest
from typer.testing import CliRunner

import sixfold
from gen.model.clip import ClipSpec
from retrieve.filter.filter import FILTERS, SCHEMA, FilterSpec, filter_data_set, names_of_classes
from retrieve.filter.rule import Rule
from shards.disk.home import home
from shards.disk.parquet import read_rows
from shards.disk.store import open_store
from shards.set.manifest import read_subset, read_table, scan_records, subset_names
from shards.set.status import write_summary
from shards.set.verify import verify
from shards.stream.index import load_index
from tests.support.picture_set import in_other_light, scenes, write_pictures

CLIP = str(home() / "sandbox" / "models" / "clip")
SCENES = scenes(20)
# 0..11 are pictures of their own; 12 has the bytes of 3; 13 and 14 are 4 and 5 in another light; 15 shows test image 2
PICTURES = [
    *SCENES[:12],
    SCENES[3],
    in_other_light(SCENES[4]),
    in_other_light(SCENES[5], 1),
    in_other_light(SCENES[18]),
]
CLASSES = [0, 1] * 8
TESTS = SCENES[16:]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    write_pictures(tmp_path / "set", PICTURES, CLASSES)
    write_pictures(tmp_path / "tests", TESTS)
    return tmp_path / "set"


def run(folder, write=True, name="filtered", **spec):
    spec.setdefault("rule", Rule())
    said = []
    found = filter_data_set(
        open_store(str(folder)), name, FilterSpec(**spec), said.append, lambda *_: None, write=write
    )
    return found, said


def reasons(found):
    return dict(zip(range(len(found.table)), found.table["reason"].to_pylist(), strict=True))


def files_of(folder, pattern="0*"):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob(pattern))}


def test_copies_of_test_images_of_other_samples_and_of_their_bytes_go_and_are_named(folder):
    before = files_of(folder)
    found, said = run(folder, against=(str(folder.parent / "tests"),), near=0.76)
    went = {place: reason for place, reason in reasons(found).items() if reason != "kept"}
    pairs = {frozenset(pair): "near_duplicate" for pair in ((4, 13), (5, 14))}
    pairs |= {frozenset((3, 12)): "duplicate", frozenset((15,)): "in_test_set"}
    uids = found.table["uid"].to_pylist()
    for group, reason in pairs.items():
        gone = [place for place in group if place in went]
        assert [went[place] for place in gone] == [reason]
        instead = {found.table["duplicate_of"][place].as_py() for place in gone}
        assert instead == ({min(uids[place] for place in group)} if reason != "in_test_set" else {None})
    assert len(went) == 4
    assert found.table["nearest_test"][15].as_py() == "tests/000000002"
    assert found.table["test_similarity"][15].as_py() > 0.76
    assert max(found.table["test_similarity"].to_pylist()[:15]) < 0.76
    assert said == []
    assert files_of(folder) == before


@pytest.mark.parametrize("domain", ["real", "synthetic", "edited", "retrieved"])
def test_the_subset_is_read_by_the_stream_and_stands_the_check_whatever_the_domain(tmp_path, domain):
    store = write_pictures(tmp_path / "set", PICTURES, CLASSES, domain=domain)
    found, _ = run(tmp_path / "set", near=0.76)
    samples, rule = read_subset(store, "filtered")
    assert len(samples) == Counter(reasons(found).values())["kept"] == 13
    assert (rule["near"], rule["descriptor"]) == (0.76, "picture")
    assert len(load_index(store.url, "filtered")) == 13
    assert not verify(store).damages


def test_the_table_has_a_row_for_every_sample_and_can_be_read_alone(folder):
    found, _ = run(folder, rule=Rule(lowest=0.0), clip=ClipSpec(model=CLIP))
    table = read_rows((folder / FILTERS / "filtered.parquet").read_bytes())
    assert table.schema.equals(SCHEMA)
    assert table.equals(found.table)
    assert (
        table["uid"].to_pylist()
        == read_table(open_store(str(folder)), scan_records(open_store(str(folder))), ["uid"])["uid"].to_pylist()
    )
    assert all(-1 <= score <= 1 for score in table["clip_score"].to_pylist())


def test_the_best_scores_of_each_class_stay(folder):
    found, _ = run(folder, rule=Rule(top=0.5, cap=3), clip=ClipSpec(model=CLIP))
    for class_id in (0, 1):
        rows = [row for row in found.table.to_pylist() if row["class_id"] == class_id and row["reason"] != "duplicate"]
        best = sorted(rows, key=lambda row: -row["clip_score"])[:3]
        assert {row["uid"] for row in rows if row["reason"] == "kept"} == {row["uid"] for row in best}


def test_the_same_command_again_does_nothing_and_another_rule_under_the_name_is_refused(folder, monkeypatch):
    first, _ = run(folder, near=0.76)
    written = files_of(folder / "_meta" / "subsets", "*")
    monkeypatch.setattr("retrieve.filter.filter.decide", None)
    again, _ = run(folder, near=0.76)
    assert (first.was_there, again.was_there) == (False, True)
    assert again.table.equals(first.table)
    assert files_of(folder / "_meta" / "subsets", "*") == written
    with pytest.raises(ValueError, match=r"subset 'filtered' of another rule \(other: near\).*another --name"):
        run(folder, near=0.8)


def test_a_filter_is_not_called_like_a_scale(folder):
    with pytest.raises(ValueError, match="found the name '2x', which is that of a scale"):
        run(folder, name="2x")
    assert not files_of(folder / "_meta" / "subsets", "2x*")


def test_a_table_that_is_lost_is_written_again_with_the_same_bytes(folder):
    run(folder, near=0.76)
    path = folder / FILTERS / "filtered.parquet"
    before = path.read_bytes()
    path.unlink()
    run(folder, near=0.76)
    assert path.read_bytes() == before


def test_a_subset_of_which_a_killed_call_left_one_file_is_written_again(folder):
    run(folder, near=0.76)
    before = files_of(folder / "_meta" / "subsets", "*")
    for lost in (".json", ".parquet"):
        (folder / "_meta" / "subsets" / f"filtered{lost}").unlink()
        run(folder, near=0.76)
        assert files_of(folder / "_meta" / "subsets", "*") == before


def test_a_dry_run_decides_the_same_and_writes_nothing_there(folder):
    dry, _ = run(folder, write=False, near=0.76)
    assert subset_names(open_store(str(folder))) == []
    assert not (folder / FILTERS).exists()
    assert dry.table.equals(run(folder, near=0.76)[0].table)


def test_a_picture_that_cannot_be_read_goes_and_is_told(folder):
    tar = folder / "00000.tar"
    whole = tar.read_bytes()
    at = whole.index(b"\xff\xd8\xff") + 300
    tar.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    found, said = run(folder, near=0.76)
    assert reasons(found)[0] == "no_score"
    assert len(said) == 1
    assert "shard 0, sample 0" in said[0]


def test_a_class_is_called_by_its_meaning_and_by_its_name_without_one(tmp_path):
    store = write_pictures(tmp_path / "a", SCENES[:3], [0, 1, 1])
    table = read_table(store, scan_records(store))
    assert names_of_classes(table) == {0: "zero, the written digit", 1: "one, the written digit"}
    store = write_pictures(tmp_path / "b", SCENES[:2], [0, 1], meaning=None)
    assert names_of_classes(read_table(store, scan_records(store))) == {0: "zero", 1: "one"}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"rule": Rule(top=0.3)}, "found no CLIP"),
        ({"rule": Rule(lowest=0.2)}, "found no CLIP"),
        ({"descriptor": "clip"}, "found no CLIP"),
        ({"near": 1.5}, "near: found 1.5, expected a cosine"),
        ({"name": "A name"}, "found the name 'A name'"),
    ],
)
def test_what_cannot_be_done_is_refused_before_the_work(folder, spec, words):
    with pytest.raises(ValueError, match=words):
        run(folder, **spec)


@pytest.mark.parametrize(("unfinished", "who"), [("set", "filter"), ("tests", "--against")])
def test_a_set_that_is_not_finished_is_neither_filtered_nor_compared_with(folder, tmp_path, unfinished, who):
    write_summary(open_store(str(tmp_path / unfinished)), {"asked": {"units": 9}, "exit_code": None})
    with pytest.raises(ValueError, match=rf"^{who} \(.*{unfinished}\): found \d of the 9 shards that the last call"):
        run(folder, against=(str(tmp_path / "tests"),))


def said_by(*arguments, code=0):
    found = CliRunner().invoke(sixfold.command_line(), ["filter", *map(str, arguments)])
    assert found.exit_code == code, (found.output, found.exception)
    return found.stdout if code == 0 else str(found.exception)


def test_the_verb_tells_counts_by_reason_and_class_and_what_reads_the_subset(folder, tmp_path):
    ids = tmp_path / "ids.txt"
    said = said_by(
        *(folder, "--clip", CLIP, "--top", "75", "--cap", 5, "--against", tmp_path / "tests", "--near", 0.76),
        *("--name", "clean", "--ids", ids),
    )
    assert "of 16 samples stay\n" in said
    assert " 1 are too like a test image\n" in said
    assert "\n000010007 is too like tests/000000002: 0." in said
    assert "class 0 zero: " in said
    assert "median" in said
    assert said.endswith("read the subset with data.domains.N.subset=clean\n")
    samples, rule = read_subset(open_store(str(folder)), "clean")
    assert ids.read_text().splitlines() == samples["key"].to_pylist()
    assert (rule["top"], rule["cap"], rule["against"][0]["name"]) == (75, 5, "tests")
    again = said_by(
        *(folder, "--clip", CLIP, "--top", "75", "--cap", 5, "--against", tmp_path / "tests", "--near", 0.76),
        *("--name", "clean"),
    )
    assert "was there: nothing to do" in again


def test_a_file_of_lowest_scores_names_classes_by_name_or_id(folder, tmp_path):
    scores = tmp_path / "scores.yaml"
    scores.write_text("zero: 0.99\n1: -0.99\n")
    said = said_by(folder, "--clip", CLIP, "--scores", scores, "--dry-run")
    assert "class 0 zero: 0 of 8\n" in said
    assert "class 1 one: 8 of 8" in said or "class 1 one: 7 of 8" in said
    for text, words in (("ten: 0.1\n", "no class at 'ten'"), ("one: x\n", "'x' at 'one'"), ("[\n", "no plain YAML")):
        scores.write_text(text)
        assert words in said_by(folder, "--clip", CLIP, "--scores", scores, code=1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--top", "0.3", "--score", "0.2"], "found --top and a lowest score"),
        (["--top", "0.3"], "give --clip"),
        (["--revision", "0" * 40], "--revision without --clip"),
        (["--against", "nowhere"], "found no folder, expected a data set"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(folder, arguments, words):
    assert words in said_by(folder, *arguments, code=1)
    assert not (folder / FILTERS).exists()

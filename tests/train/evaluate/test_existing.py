"""Measuring a model that exists: which model and which outputs are meant, right counts, a page that stays readable."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform
from typer.testing import CliRunner

import sixfold
from shards.disk.jpeg import encode_jpeg
from shards.labels.folders import Entry
from tests.support.hub_cache import COMMIT, put_into_cache, timm_model
from tests.support.small_data_set import picture, write_data_set, write_foreign
from tests.support.small_training import small_recipe, train_alone, write_sets
from train.evaluate.confusion import Confusion, matrix_of
from train.evaluate.evaluate import SetSpec, answer_key
from train.evaluate.existing import Report, measure_on, open_on, page_of, table, write_reports
from train.evaluate.results import find_results, read_results
from train.evaluate.subject import Subject, load_subject, open_subject

torch.set_num_threads(1)
CPU = torch.device("cpu")
NAMES = ["zero", "one", "two", "crane", "crown"]


def write_folder(folder: Path, classes: list[str], each: int = 3) -> Path:
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for index in range(each):
            (folder / name / f"{index}.jpg").write_bytes(encode_jpeg(picture(number, index, 48)))
    return folder


def save_model(folder: Path, names: list[str] | None = None, num_classes: int = 5) -> Path:
    told = {"label_names": names} if names else {}
    shown = {"input_size": (3, 32, 32), "crop_pct": 0.8, "mean": (0.2, 0.3, 0.4), "std": (0.5, 0.6, 0.7)}
    model = timm_model("resnet10t", num_classes)
    timm.models.save_for_hf(model, folder, model_config=told, safe_serialization=True, data_config=shown)
    return folder


def reports_on(subject: Subject, *sources: Path, own: bool = False) -> list[Report]:
    sets, _ = open_on(subject, [str(source) for source in sources], None, "own" if own else "all")
    return measure_on(subject, sets, 4, CPU, lambda line: None)


def test_every_picture_is_counted_as_timm_itself_would(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", NAMES)
    save_model(tmp_path / "model", NAMES)
    [report] = reports_on(open_subject(str(tmp_path / "model")), folder)
    theirs = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval()
    transform = create_transform(**timm.data.resolve_model_data_config(theirs), is_training=False)
    right = dict.fromkeys(range(5), 0)
    for label, name in enumerate(NAMES):
        for path in sorted((folder / name).iterdir()):
            with torch.inference_mode():
                best = int(theirs(transform(Image.open(path).convert("RGB"))[None]).argmax())
            right[label] += best == label
            assert report.confusion.first[label, best] > 0
    assert report.counts.right.tolist() == list(right.values())
    assert (report.counts.n, report.counts.seen.tolist()) == (15, [3] * 5)


def test_a_finished_training_is_measured_as_it_measured_itself(tmp_path: Path) -> None:
    write_sets(tmp_path)
    train_alone(small_recipe(tmp_path), tmp_path / "run")
    subject = open_subject(str(tmp_path / "run"))
    assert subject.about.architecture == "sandbox_resnet"
    [report] = reports_on(subject, tmp_path / "held-out")
    write_reports(tmp_path / "out", subject, [report])
    [ours] = read_results(tmp_path / "out" / "results.jsonl").results
    theirs = next(one for one in read_results(tmp_path / "run" / "results.jsonl").results if one.role == "test")
    assert (ours.per_class, ours.top5, ours.data["held-out"]) == (theirs.per_class, theirs.top5, theirs.data["one"])
    assert (ours.recipe, ours.seed, ours.step, ours.weights) == (
        theirs.recipe,
        theirs.seed,
        theirs.step,
        theirs.weights,
    )


# which model


def test_a_model_of_the_hub_is_found_in_the_cache_by_id_by_commit_and_by_its_name_in_timm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = timm_model("resnet10t", 1000)
    put_into_cache(tmp_path / "cache", monkeypatch, model, "timm/resnet10t.c3_in1k", tag="c3_in1k")
    for name in ("timm/resnet10t.c3_in1k", "hf-hub:timm/resnet10t.c3_in1k", "resnet10t.c3_in1k", "resnet10t"):
        subject = open_subject(name)
        assert COMMIT[:12] in subject.line
        assert subject.called(134) == "crane bird (134)"  # of ImageNet's names
    assert open_subject("timm/resnet10t.c3_in1k", COMMIT).found == subject.found
    assert torch.equal(load_subject(subject).fc.weight, model.fc.weight)
    with pytest.raises(ValueError, match="is not in the hub cache of this machine; get it with `hf download"):
        open_subject("timm/resnet10t.c3_in1k", "f" * 40)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no/such/folder/here", "found no file or folder"),
        ("resnet5o", "found no file or folder 'resnet5o', expected one, a model of timm with weights, or a hub id"),
        ("owner/name", "get it with `hf download owner/name`"),
        ("resnet18.a1_in1k", "get it with `hf download timm/resnet18.a1_in1k`"),
        ("s3://bucket/x", "found no file or folder"),
    ],
)
def test_a_model_that_is_not_here_is_named_in_one_line_and_not_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=words) as caught:
        open_subject(name)
    assert "\n" not in str(caught.value)


def test_a_training_without_a_result_and_weights_without_a_description_are_told(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(ValueError, match="found a training without a result"):
        open_subject(str(tmp_path / "run"))
    save_model(tmp_path / "model")
    (tmp_path / "model" / "config.json").unlink()
    with pytest.raises(ValueError, match=r"without a description, expected config\.json of timm or model\.json"):
        open_subject(str(tmp_path / "model" / "model.safetensors"))


def test_weights_with_other_outputs_than_their_description_says_are_refused(tmp_path: Path) -> None:
    save_model(tmp_path, num_classes=7)
    described = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(described | {"num_classes": 5}))
    with pytest.raises(ValueError, match=r"MODEL: found \[7\] for 'fc.bias' .* expected \[5\]"):
        load_subject(open_subject(str(tmp_path)))


def test_a_description_that_asks_for_other_pictures_is_told(tmp_path: Path) -> None:
    save_model(tmp_path)
    assert open_subject(str(tmp_path)).shown_otherwise() == ""
    described = json.loads((tmp_path / "config.json").read_text())
    described["pretrained_cfg"] |= {"interpolation": "bilinear", "crop_mode": "squash"}
    (tmp_path / "config.json").write_text(json.dumps(described))
    assert (
        "its description asks for bilinear, squash; pictures are shown bicubic"
        in open_subject(str(tmp_path)).shown_otherwise()
    )


# which outputs


def test_classes_are_matched_by_name_where_ids_differ_and_unknown_ones_are_left_out(tmp_path: Path) -> None:
    names = ["crane", "two", "one", "zero", "else"]
    subject = open_subject(str(save_model(tmp_path / "model", names)))
    ours = write_data_set(
        tmp_path / "ours",
        1,
        10,
        0,
        change=lambda s, i, row: {**row, "class_name": ["zero", "one", "two", "crane", "dog"][int(row["class_id"])]},
    )
    [one], lines = open_on(subject, [ours.url], None, "all")
    assert one.key.accepted == {0: (3,), 1: (2,), 2: (1,), 3: (0,)}
    assert "4 classes are matched with the model's outputs by name, 1 that it does not know are left out" in lines[0]
    [report] = measure_on(subject, [one], 4, CPU, lambda line: None)
    assert (report.counts.n, report.counts.left_out) == (8, 2)


@pytest.mark.parametrize(
    ("names", "words", "counted"),
    [
        (["crane", "two", "one", "zero", "else"], "by name, 2 without a name are left out (ids 1, 4)", (6, 4)),
        (
            ["zero", "one", "two", "crane", "crane"],
            "of the model; 2 without a name are taken by their ids (1, 4)",
            (10, 0),
        ),
    ],
)
def test_classes_without_a_name_are_told_by_their_ids(
    tmp_path: Path, names: list[str], words: str, counted: tuple[int, int]
) -> None:
    subject = open_subject(str(save_model(tmp_path / "model", names)))
    ours = write_data_set(
        tmp_path / "ours",
        1,
        10,
        0,
        change=lambda s, i, row: {**row, "class_name": "" if row["class_id"] in (1, 4) else row["class_name"]},
    )
    [one], lines = open_on(subject, [ours.url], None, "all")
    assert words in lines[0]
    [report] = measure_on(subject, [one], 4, CPU, lambda line: None)
    assert (report.counts.n, report.counts.left_out) == counted


def test_ids_are_outputs_where_names_agree_or_one_side_has_none(tmp_path: Path) -> None:
    named = open_subject(str(save_model(tmp_path / "named", ["zero", "one", "two", "crane", "crane (4)"])))
    ours = write_data_set(tmp_path / "ours", 1, 10, 0)
    theirs = tmp_path / "theirs"
    write_foreign(theirs, [0, 1, 4])
    (first, second), lines = open_on(named, [ours.url, str(theirs)], None, "all")
    assert first.key.accepted[4] == second.key.accepted[4] == (4,)
    assert lines[1].endswith("the set names no classes: ids are taken for outputs")
    bare = open_subject(str(save_model(tmp_path / "bare")))
    assert open_on(bare, [ours.url], None, "all")[1][0].endswith(
        "the model names no outputs: ids are taken for outputs"
    )


def test_a_list_names_the_outputs_of_a_model_that_does_not(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("\n".join(reversed(NAMES)))
    subject = open_subject(str(save_model(tmp_path / "model")), classes=str(tmp_path / "list.txt"))
    folder = write_folder(tmp_path / "set", ["crane", "zero"])
    [one], _ = open_on(subject, [str(folder)], None, "own")
    assert one.key.accepted == {1: (1,), 4: (4,)}
    assert one.key.competes_C.tolist() == [False, True, False, False, True]
    (tmp_path / "long.txt").write_text("\n".join("abcdefg"))
    with pytest.raises(ValueError, match=r"--classes .*: found class id 6, expected below 5"):
        open_subject(str(tmp_path / "model"), classes=str(tmp_path / "long.txt"))


def test_a_set_that_shares_no_class_with_the_model_is_refused(tmp_path: Path) -> None:
    subject = open_subject(str(save_model(tmp_path / "model", ["a", "b", "c", "d", "e"])))
    ours = write_data_set(
        tmp_path / "ours", 1, 10, 0, change=lambda s, i, row: {**row, "class_name": f"x{row['class_id']}"}
    )
    with pytest.raises(ValueError, match=r"found classes such as 'x0', .* expected some that the model knows"):
        open_on(subject, [ours.url], None, "all")


# what is told


def confusion_of(num_classes: int, n: int = 4_000) -> tuple[Confusion, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(num_classes, size=n)
    scores = rng.normal(size=(n, num_classes)) + 3 * np.eye(num_classes)[labels]
    confusion = Confusion(answer_key(SetSpec(source="set"), range(num_classes), num_classes, None))
    for start in range(0, n, 512):
        confusion.add(scores[start : start + 512], labels[start : start + 512])
    return confusion, scores, labels


def test_confusion_counts_what_scikit_learn_counts() -> None:
    from sklearn.metrics import confusion_matrix

    confusion, scores, labels = confusion_of(6, 500)
    theirs = confusion_matrix(labels, scores.argmax(axis=1), labels=range(6))
    assert [[confusion.first[row, column] for column in range(6)] for row in range(6)] == theirs.tolist()
    first = confusion.wrong()[0]
    off = theirs - np.diag(np.diag(theirs))
    assert first.count == off.max() == theirs[first.class_id, first.output]
    assert first.of == theirs[first.class_id].sum()
    cells = [cell for row in matrix_of(confusion, str, str).rows for cell in row.cells]
    assert sum(cell.count for cell in cells) == 500


def test_scores_that_are_not_finite_are_no_answer() -> None:
    confusion = Confusion(answer_key(SetSpec(source="set"), range(3), 3, None))
    confusion.add(np.array([[np.nan, 1, 2], [1, 2, 3], [5, 5, 1]]), np.array([0, 2, 1]))
    assert dict(confusion.first) == {(2, 2): 1, (1, 0): 1}


def test_the_page_is_bounded_at_a_thousand_classes_and_shows_text_as_text(tmp_path: Path) -> None:
    subject = open_subject(str(save_model(tmp_path / "model")))
    folder = write_folder(tmp_path / "set", ["<script>alert(1)</script>".replace("/", "∕"), "b"])
    reports = reports_on(subject, folder)
    page = page_of(subject, reports)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    confusion, scores, labels = confusion_of(1000, 20_000)
    from train.evaluate.counts import count

    names = {number: f"class {number}" for number in range(1000)}
    many = Report(reports[0].one, names, count(scores, labels, confusion.key), confusion)
    page = page_of(subject, [many])
    assert len(page) < 400_000
    assert page.count('<rect class="lane"') == 30
    assert "The 30 classes that are confused most" in page
    assert re.search(r"The 40 most frequent of [0-9,]+ confused pairs", page)
    assert len(table(many).splitlines()) == 22


def test_the_square_of_a_page_has_room_for_its_names_and_no_more(tmp_path: Path) -> None:
    """A name that is too long loses its middle, and keeps the id that tells it from others."""

    def square(names: list[str]) -> tuple[int, int, list[str]]:
        confusion, _, _ = confusion_of(len(names), 400)
        matrix = matrix_of(confusion, names.__getitem__, names.__getitem__)
        return matrix.top_px, matrix.left_px, [*matrix.labels, *(row.label for row in matrix.rows)]

    low, near, labels = square(["cat (0)", "dog (1)"])
    assert labels == ["cat (0)", "dog (1)", "any other", "cat (0)", "dog (1)"]
    assert low < 70
    high, far, labels = square([f"a class with a very long name indeed ({number})" for number in range(12)])
    assert low < high < 130
    assert low < square(["丹頂 (0)", "起重機起重機 (1)"])[0], "wide letters"
    assert near < far < 250
    assert labels[11] == "a class with a …d (11)"
    assert len(set(labels[:12])) == 12
    assert max(map(len, labels)) == 30


def test_a_second_call_adds_lines_and_pages_and_replaces_those_of_the_same_set(tmp_path: Path) -> None:
    subject = open_subject(str(save_model(tmp_path / "model", NAMES)))
    one, other = write_folder(tmp_path / "one", NAMES), write_folder(tmp_path / "other", NAMES[:2])
    write_reports(tmp_path / "out", subject, reports_on(subject, one))
    write_reports(tmp_path / "out", subject, reports_on(subject, other))
    assert [line.set for line in read_results(tmp_path / "out" / "results.jsonl").results] == ["one", "other"]
    before = (tmp_path / "out" / "confusion-one.html").read_text()
    assert ">one</h2>" in before
    assert ">other</h2>" in (tmp_path / "out" / "confusion-other.html").read_text()
    (tmp_path / "out" / "confusion-one.html").write_text("an old one")
    write_reports(tmp_path / "out", subject, reports_on(subject, one))
    assert (tmp_path / "out" / "confusion-one.html").read_text() == before
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_two_sources_of_one_name_stay_apart_in_one_call_and_in_later_ones(tmp_path: Path) -> None:
    subject = open_subject(str(save_model(tmp_path / "model", NAMES)))
    one = write_folder(tmp_path / "a" / "val", NAMES)
    other = write_folder(tmp_path / "b" / "val", NAMES, each=2)
    third = write_folder(tmp_path / "c" / "b" / "val", NAMES, each=1)
    out = tmp_path / "out"

    def names(*sources: Path) -> list[str]:
        return [each.name for each in open_on(subject, [str(source) for source in sources], None, "all", out)[0]]

    assert names(one, other) == ["a/val", "b/val"]
    assert names(one) == ["val"]
    for source, expected in ((one, "val"), (other, "b/val"), (third, "c/b/val"), (one, "val"), (other, "b/val")):
        sets, _ = open_on(subject, [str(source)], None, "all", out)
        assert [each.name for each in sets] == [expected]
        write_reports(out, subject, measure_on(subject, sets, 4, CPU, lambda line: None))
    assert {line.set: line.n for line in read_results(out / "results.jsonl").results} == {
        "val": 15,
        "b/val": 10,
        "c/b/val": 5,
    }
    assert {path.name for path in out.glob("*.html")} == {
        "confusion-val.html",
        "confusion-b-val.html",
        "confusion-c-b-val.html",
    }
    assert not find_results([out]).problems
    own, _ = open_on(subject, [str(one)], None, "own", out)
    assert own[0].name == "val (own classes)", "other figures, so another name"


def test_wordnet_ids_name_the_classes_of_imagenet(tmp_path: Path) -> None:
    from train.evaluate.subject import _entry

    assert _entry(134, "n02012849") == Entry(134, "crane bird", "n02012849")


def test_the_verb_tells_first_and_measures_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "model", NAMES)
    write_folder(tmp_path / "set", NAMES)
    app = sixfold.command_line()
    tried = CliRunner().invoke(app, ["evaluate", "model", "--on", "set", "--dry-run"])
    assert tried.exit_code == 0, tried.output
    assert "set: 15 pictures of 5 classes; names and ids are those of the model" in tried.output
    assert not (tmp_path / "out").exists()
    done = CliRunner().invoke(app, ["evaluate", "model", "--on", "set", "--on", "set", "--own-classes"])
    assert done.exit_code == 0, done.output
    assert re.search(r"set \(own classes\): top-1 [0-9.]+ % \([0-9]+ of 15\), top-5 100\.00 % \(15\)", done.output)
    assert (tmp_path / "out" / "evaluate" / "model" / "confusion-set-own-classes.html").is_file()
    assert len(read_results(tmp_path / "out" / "evaluate" / "model" / "results.jsonl").results) == 2

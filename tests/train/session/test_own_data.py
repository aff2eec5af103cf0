"""A training on what people have: image folders and data sets of Hugging Face, without a step between."""

from pathlib import Path

import pytest

from shards.disk.jpeg import encode_jpeg
from tests.support.small_data_set import picture
from tests.support.small_training import last_state, small_recipe, train_alone, write_sets
from train.evaluate.results import read_results
from train.model.pretrained import read_about

CLASSES = ("crane", "one", "two", "zero")


def write_folder(folder: Path, classes: tuple[str, ...], start: int = 0, each: int = 4) -> Path:
    for name in classes:
        (folder / name).mkdir(parents=True)
        for index in range(each):
            data = encode_jpeg(picture(CLASSES.index(name), start + index))
            (folder / name / f"{index}.jpg").write_bytes(data)
    return folder


def test_a_training_on_folders_is_measured_on_a_part_of_the_classes_and_goes_on_bit_for_bit(tmp_path: Path) -> None:
    train = write_folder(tmp_path / "train", CLASSES)
    test = write_folder(tmp_path / "test", ("zero", "one"), start=9)
    domains = [{"name": "real", "source": str(train), "quota": 4}]
    fields = {"data__domains": domains, "evaluate__validation": None, "model__num_classes": 4}
    recipe = small_recipe(tmp_path, **fields, evaluate__tests={"part": {"source": str(test)}})
    train_alone(recipe, tmp_path / "run", looks=4)
    assert train_alone(recipe, tmp_path / "run").exit_code == 0
    assert train_alone(recipe, tmp_path / "at once").exit_code == 0
    ends = [last_state(tmp_path / name) for name in ("run", "at once")]
    assert all(tensor.equal(ends[1][name]) for name, tensor in ends[0].items())
    [line] = [one for one in read_results(tmp_path / "run" / "results.jsonl").results if one.role == "test"]
    assert sorted(line.per_class) == [1, 3]  # the ids of the training's folders, not those of two folders alone
    about = read_about(tmp_path / "run")
    assert about is not None
    assert list(about.names.values()) == list(CLASSES)


def test_folders_and_shards_that_disagree_about_an_id_are_refused_with_the_field_that_mends_it(tmp_path: Path) -> None:
    write_sets(tmp_path)
    train = write_folder(tmp_path / "train", CLASSES)
    domains = [
        {"name": "real", "source": str(train), "quota": 4},
        {"name": "synthetic", "source": str(tmp_path / "synthetic"), "quota": 4},
    ]
    recipe = small_recipe(tmp_path, data__domains=domains, evaluate__validation=None, evaluate__tests={})
    with pytest.raises(ValueError, match=r"expected one name for an id; give class folders and labels .*data\.classes"):
        train_alone(recipe, tmp_path / "run")
    (tmp_path / "list.csv").write_text("id,name\n0,zero\n1,one\n2,two\n3,crane\n")
    listed = small_recipe(
        tmp_path,
        data__domains=domains,
        data__classes=str(tmp_path / "list.csv"),
        evaluate__validation=None,
        evaluate__tests={},
        schedule__steps=1,
    )
    assert train_alone(listed, tmp_path / "run").exit_code == 0

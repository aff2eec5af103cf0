"""`sixfold init` for real images whose folder is no class list: saved data sets, tars, pictures beside a list."""

from pathlib import Path

import datasets
import pytest
from PIL import Image
from typer.testing import CliRunner

import sixfold
from cluster.recipes.load import load_recipe
from gen.run.recipe import Recipe
from shards.disk.jpeg import encode_jpeg
from shards.labels.classes import load_classes
from shards.set.status import write_summary
from shards.stream.index import load_index
from tests.support.small_data_set import picture, write_data_set, write_foreign
from train.recipe import TrainRecipe

NAMES = ("crane", "jay", "kite")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def init(*arguments: str) -> str:
    words = ["init", *arguments, "--model", "sandbox/models/generator"]
    said = CliRunner().invoke(sixfold.command_line(), words, catch_exceptions=False)
    assert said.exit_code == 0, said.output
    return said.output


def refused(*arguments: str) -> str:
    with pytest.raises(ValueError) as caught:
        init(*arguments)
    return str(caught.value)


def save(folder: str, labels: list[int], names: tuple[str, ...] | None = NAMES) -> None:
    label = datasets.Value("int64") if names is None else datasets.ClassLabel(names=list(names))
    features = datasets.Features({"label": label, "image": datasets.Image()})
    cells = [{"bytes": encode_jpeg(picture(one, row)), "path": None} for row, one in enumerate(labels)]
    datasets.Dataset.from_dict({"label": labels, "image": cells}, features=features).save_to_disk(folder)


def photos(folder: Path, **counts: int) -> None:
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (40, 30), (number * 9, 100, 50)).save(folder / name / f"{number}.jpg")


def counts_of(recipe: str) -> dict[int, tuple[str, int]]:
    return {one.id: (one.name, one.count) for one in load_classes(load_recipe(Path(recipe), Recipe).classes)}


def labels_seen(training: TrainRecipe) -> list[int]:
    """Of the real images, as a training numbers them."""
    source = training.data.domains[0].source
    return sorted(load_index(source, class_list=training.data.class_list).label.tolist())


def test_a_saved_data_set_becomes_a_list_with_its_names_and_counts_and_two_recipes() -> None:
    save("birds", [2, 0, 2, 2])
    said = init("birds")
    assert "birds.yaml: 2 classes, 4 images in 1x" in said
    assert "birds-classes.csv: the classes, with the number of their real images" in said
    assert Path("birds-classes.csv").read_text() == "id,name,count\n0,crane,1\n2,kite,3\n"
    assert counts_of("birds.yaml") == {0: ("crane", 1), 2: ("kite", 3)}
    training = load_recipe(Path("birds-train.yaml"), TrainRecipe)
    assert [one.source for one in training.data.domains] == ["birds", "out/birds"]
    assert training.model is not None
    assert (training.model.num_classes, labels_seen(training)) == (3, [0, 2, 2, 2])


def test_labels_that_are_numbers_ask_for_a_list_which_then_is_enough() -> None:
    save("numbers", [0, 1, 1], None)
    write_foreign(Path("tars"), [1, 0, 1])
    for source, what in (("numbers", "a data set"), ("tars", "tars")):
        line = refused(source)
        assert f"{source}: found {what} with labels that are numbers, expected names of classes; write a list" in line
        assert line.endswith(f"sixfold init classes.csv --real {source}")
    Path("classes.csv").write_text('id,name,meaning\n1,jay,\n0,crane,"crane, the bird"\n')
    for real in ("numbers", "tars"):
        init("classes.csv", "--real", real, "--out", f"{real}.yaml")
        assert counts_of(f"{real}.yaml") == {0: ("crane", 1), 1: ("jay", 2)}
        assert "crane, the bird" in Path(f"{real}-classes.csv").read_text(), "the list keeps what it says"
        assert labels_seen(load_recipe(Path(f"{real}-train.yaml"), TrainRecipe)) == [0, 1, 1]


def test_class_folders_get_the_ids_of_the_list_beside_them() -> None:
    photos(Path("photos"), crane=1, jay=2, kite=3)  # whose own ids would be 0, 1, 2
    Path("birds.csv").write_text("id,name\n7,kite\n3,jay\n5,crane\n")
    init("birds.csv", "--real", "photos", "--out", "mine.yaml")
    training = load_recipe(Path("mine-train.yaml"), TrainRecipe)
    assert (training.data.classes, labels_seen(training)) == ("mine-classes.csv", [3, 3, 5, 7, 7, 7])
    assert counts_of("mine.yaml") == {3: ("jay", 2), 5: ("crane", 1), 7: ("kite", 3)}
    init("birds.csv", "--real", "photos", "--per-class", "4", "--out", "four.yaml")
    assert not Path("four-classes.csv").exists(), "the list itself is enough"
    assert load_recipe(Path("four-train.yaml"), TrainRecipe).data.classes == "birds.csv"


def test_a_data_set_that_is_not_finished_gives_no_counts() -> None:
    write_summary(write_data_set(Path("real"), num_shards=1), {"asked": {"units": 10}, "exit_code": None})
    Path("birds.csv").write_text("name\nzero\none\ntwo\ncrane\nkite\n")
    line = refused("birds.csv", "--real", "real")
    assert "found 1 of the 10 shards that the last call was asked for" in line
    assert line.endswith("or give --per-class")
    init("birds.csv", "--real", "real", "--per-class", "4")


def test_a_list_that_does_not_fit_the_pictures_is_refused_and_nothing_is_written(here: Path) -> None:
    write_foreign(Path("tars"), [0, 1])
    Path("more.csv").write_text("name\ncrane\njay\nkite\n")
    Path("fewer.csv").write_text("name\ncrane\n")
    assert "tars: found no picture of 'kite' (1 of 3 classes of the list), expected some" in refused(
        "more.csv", "--real", "tars"
    )
    assert "tars: found pictures of class 1, expected the ids of the list, 0 to 0" in refused(
        "fewer.csv", "--real", "tars"
    )
    assert not list(here.glob("*.yaml"))

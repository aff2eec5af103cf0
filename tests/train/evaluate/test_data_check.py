"""Before a training: an id means the same class in every data set, and what could not be compared is said."""

import json
from collections.abc import Mapping
from pathlib import Path

import datasets
import pytest

from shards.disk.jpeg import encode_jpeg
from shards.disk.store import open_store
from shards.set.writer import ShardWriter
from shards.stream.index import load_index
from shards.stream.spec import DomainSpec
from tests.support.small_data_set import FINGERPRINT, picture, sample, write_data_set, write_foreign
from tests.support.small_training import small_recipe, train_alone, write_sets
from train.evaluate.data_check import Opened, check_names, open_domains, read_names
from train.evaluate.evaluate import EvaluateSpec, SetSpec, open_sets
from train.recipe import deciding


def write_named(folder: Path, names: Mapping[int, str], mixed: bool = True) -> Opened:
    """A data set with one picture a class, all in one shard or each in its own."""
    store = open_store(str(folder))
    rows = list(names.items())
    for shard, chunk in enumerate([rows] if mixed else [[row] for row in rows]):
        with ShardWriter(store, shard, "try", FINGERPRINT) as writer:
            for index, (class_id, name) in enumerate(chunk):
                writer.add(sample(shard, index, class_id, class_name=name), encode_jpeg(picture(class_id, index)))
            writer.commit(1.0, 2.0, {"device": "cpu"}, slots=len(chunk))
    return Opened(f"data.domains.{folder.name}", str(folder), load_index(str(folder)))


REAL = {0: "zero", 1: "one", 2: "great white shark"}


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({0: "one", 1: "two", 2: "zero"}, "found class 0 under the name 'one', and 'zero' in data.domains.real"),
        ({3: "Zero"}, "found the class 'zero' under the id 3, and under 0 in data.domains.real"),
        ({1: "zero"}, "found class 1 under the name 'zero', and 'one' in data.domains.real"),
    ],
)
def test_data_sets_that_disagree_about_an_id_are_refused_with_both_names(tmp_path: Path, other, words) -> None:
    sets = [write_named(tmp_path / "real", REAL), write_named(tmp_path / "synthetic", other)]
    with pytest.raises(ValueError, match=r"data\.domains\.synthetic") as caught:
        check_names(sets)
    assert words in str(caught.value)
    assert str(tmp_path / "real") in str(caught.value)
    assert "data.check_names: false" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("other", [{0: "ZERO"}, {2: "Great_White-Shark"}, {7: "seven"}, {0: "0", 1: "01"}])
def test_case_underscores_and_hyphens_do_not_count_and_a_number_is_no_name(tmp_path: Path, other) -> None:
    sets = [write_named(tmp_path / "real", REAL), write_named(tmp_path / "other", other)]
    assert check_names(sets) == []


@pytest.mark.parametrize(("labels", "is_told"), [((1, 2, 3), True), ((0, 1, 2), False), ((1, 3), False), ((1,), False)])
def test_labels_of_others_that_seem_to_count_from_1_are_told(tmp_path: Path, labels, is_told: bool) -> None:
    write_foreign(tmp_path / "theirs", labels)
    theirs = Opened("data.domains.real", str(tmp_path / "theirs"), load_index(str(tmp_path / "theirs")))
    said = check_names([theirs, write_named(tmp_path / "ours", REAL)])
    told = [line for line in said if "found the labels 1 to 3 and no 0; if they count from 1" in line]
    assert len(told) == is_told


def test_one_key_in_two_tars_of_others_is_refused_by_both_names(tmp_path: Path) -> None:
    for tar in ("test-0000.tar", "test-0001.tar"):
        write_foreign(tmp_path / "theirs", [0, 1], tar)
    with pytest.raises(ValueError, match=r"test-0000\.tar key 0 and test-0001\.tar key 0 are the same sample"):
        load_index(str(tmp_path / "theirs"))


def test_two_classes_may_share_a_name_if_one_data_set_has_them_side_by_side(tmp_path: Path) -> None:
    whole = write_named(tmp_path / "whole", {3: "crane", 4: "crane"})
    parts = [write_named(tmp_path / f"part{class_id}", {class_id: "crane"}) for class_id in (3, 4)]
    assert check_names([*parts, whole]) == []
    with pytest.raises(ValueError, match="the class 'crane' under the id 4, and under 3"):
        check_names(parts)


def test_wordnet_ids_are_compared_with_each_other_and_not_with_words(tmp_path: Path) -> None:
    words = write_named(tmp_path / "words", {0: "tench", 1: "goldfish"})
    ids = write_named(tmp_path / "ids", {0: "n01440764", 1: "n01443537"})
    part = write_named(tmp_path / "part", {0: "n01443537"})
    [said] = check_names([words, ids])
    assert said.startswith(f"data.domains.ids ({tmp_path / 'ids'}): calls classes by WordNet ids")
    with pytest.raises(ValueError, match="class 0 under the name 'n01443537', and 'n01440764'"):
        check_names([words, ids, part])


def test_sets_without_names_and_sets_with_ids_of_their_own_are_said_and_not_compared(tmp_path: Path) -> None:
    real = write_named(tmp_path / "real", REAL)
    write_foreign(tmp_path / "foreign", [0, 1])
    foreign = Opened("evaluate.tests.v2", str(tmp_path / "foreign"), load_index(str(tmp_path / "foreign")))
    own = write_named(tmp_path / "objects", {0: "chair"})
    own = Opened("evaluate.tests.objects", own.source, own.index, has_own_ids=True)
    said = check_names([real, foreign, own])
    assert [line.partition(" (")[0] for line in said] == ["evaluate.tests.objects", "evaluate.tests.v2"]
    assert "what others wrote holds no class names here" in said[1]


MANY = {class_id: f"class {class_id}" for class_id in range(40)}


def test_every_class_has_its_name_however_many_tables_must_be_read_for_it(tmp_path: Path) -> None:
    one = write_named(tmp_path / "sorted", MANY, mixed=False)
    assert check_names([one]) == []
    assert read_names(one) == {class_id: {name} for class_id, name in MANY.items()}


def test_the_list_of_classes_of_a_data_set_names_them_without_its_tables(tmp_path: Path) -> None:
    one = write_named(tmp_path / "made", MANY, mixed=False)
    (tmp_path / "made" / "_meta").mkdir(exist_ok=True)
    rows = [[class_id, name, None, 1] for class_id, name in MANY.items() if class_id != 7]
    (tmp_path / "made" / "_meta" / "classes.json").write_text(json.dumps([*rows, [99, "never seen", None, 0]]))
    for table in (tmp_path / "made").glob("*.parquet"):
        if table.name != "00007.parquet":
            table.unlink()
    assert read_names(one) == {class_id: {name} for class_id, name in MANY.items()}, "what it lacks is in its table"


def test_tars_that_others_wrote_cannot_grow_in_a_training(tmp_path: Path) -> None:
    write_foreign(tmp_path / "a", [0, 1])
    write_foreign(tmp_path / "b", [0, 1], "00000.tar")
    (tmp_path / "b" / "00000_stats.json").write_text('{"count": 2}')
    for name in ("a", "b"):
        spec = DomainSpec(name="real", source=str(tmp_path / name), quota=1, grow=True)
        with pytest.raises(ValueError, match=r"data\.domains\.real .*found grow: true for what others wrote"):
            open_domains([spec], None)
        assert len(open_domains([spec.model_copy(update={"grow": False})], None)[0].index) == 2
    write_named(tmp_path / "ours", REAL)
    assert open_domains([DomainSpec(name="real", source=str(tmp_path / "ours"), quota=1, grow=True)], None)


def test_a_training_on_tars_of_img2dataset_ends_with_a_model_without_names(tmp_path: Path) -> None:
    """Its statistics lie where our records do."""
    write_sets(tmp_path)
    write_foreign(tmp_path / "foreign", [0, 1, 2, 3, 4] * 2, "00000.tar")
    (tmp_path / "foreign" / "00000_stats.json").write_text('{"count": 10, "successes": 10, "status_dict": {}}')
    one_step = {"groups": 2, "steps": 1, "epoch_steps": 1}
    recipe = small_recipe(
        tmp_path, data__domains__1__source=str(tmp_path / "foreign"), evaluate__validation=None, schedule=one_step
    )
    assert train_alone(recipe, tmp_path / "both").exit_code == 0
    about = json.loads((tmp_path / "both" / "model.json").read_text())
    assert about["class_names"] == {"0": "zero", "1": "one", "2": "two", "3": "crane", "4": "crane"}
    alone = small_recipe(
        tmp_path,
        data__domains=[{"name": "real", "source": str(tmp_path / "foreign"), "quota": 4}],
        model__aux="none",
        evaluate__validation=None,
        schedule=one_step,
    )
    assert train_alone(alone, tmp_path / "alone").exit_code == 0
    assert (tmp_path / "alone" / "model.safetensors").is_file()
    assert json.loads((tmp_path / "alone" / "model.json").read_text())["class_names"] == {}


def test_a_training_compares_the_names_first_unless_its_recipe_says_otherwise(tmp_path: Path) -> None:
    def swapped(shard: int, index: int, row: dict[str, object]) -> dict[str, object]:
        names = {"zero": "one", "one": "two", "two": "zero"}
        return {**row, "class_name": names.get(str(row["class_name"]), row["class_name"])}

    write_sets(tmp_path)
    write_data_set(tmp_path / "swapped", change=swapped)
    recipe = small_recipe(
        tmp_path,
        data__domains__1__source=str(tmp_path / "swapped"),
        evaluate__validation=None,
        schedule={"groups": 2, "steps": 1, "epoch_steps": 1},
    )
    with pytest.raises(
        ValueError, match=r"data\.domains\.synthetic .*: found class 0 under the name 'one', and 'zero' in"
    ):
        train_alone(recipe, tmp_path / "run")
    unchecked = recipe.model_copy(update={"data": recipe.data.model_copy(update={"check_names": False})})
    assert train_alone(unchecked, tmp_path / "run").exit_code == 0
    assert deciding(unchecked) == deciding(recipe)


def test_a_training_that_would_be_measured_on_its_own_pictures_does_not_start(tmp_path: Path) -> None:
    write_sets(tmp_path)
    recipe = small_recipe(tmp_path, evaluate__tests={"one": {"source": str(tmp_path / "real")}})
    with pytest.raises(
        ValueError, match=r"evaluate\.tests\.one .*: found 20 samples that are also in data\.domains\.real"
    ):
        train_alone(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "results.jsonl").exists()


@pytest.mark.parametrize("ending", ["", "/train"])
def test_splits_of_one_saved_dataset_share_no_sample_and_a_split_shares_all_with_itself(
    tmp_path: Path, ending: str
) -> None:
    features = datasets.Features({"label": datasets.ClassLabel(names=["zero", "one"]), "image": datasets.Image()})

    def split(num: int, start: int) -> datasets.Dataset:
        cells = [{"bytes": encode_jpeg(picture(row % 2, start + row)), "path": None} for row in range(num)]
        return datasets.Dataset.from_dict({"label": [row % 2 for row in range(num)], "image": cells}, features=features)

    both = datasets.DatasetDict({"train": split(8, 0), "validation": split(4, 8), "test": split(5, 12)})
    both.save_to_disk(tmp_path / "saved")
    root = str(tmp_path / "saved")
    subset = None if ending else "train"
    domains = open_domains([DomainSpec(name="real", source=f"{root}{ending}", subset=subset, quota=1)], None)
    spec = EvaluateSpec(
        validation=SetSpec(source=root, subset="validation"), tests={"t": SetSpec(source=root, subset="test")}
    )
    assert [one.n for one in open_sets(spec, 2, domains=domains)] == [4, 5]
    again = EvaluateSpec(tests={"t": SetSpec(source=root, subset="train")})
    with pytest.raises(
        ValueError, match=r"evaluate\.tests\.t .*: found 8 samples that are also in data\.domains\.real"
    ):
        open_sets(again, 2, domains=domains)

"""What a training reads is named before it begins, and what is wrong with it is told before torch is loaded."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

import sixfold
from cluster.recipes.load import dump_recipe, load_recipe
from shards.disk.home import home
from shards.disk.jpeg import encode_jpeg
from shards.stream.index import load_index
from tests.support.small_data_set import picture, write_data_set
from tests.support.small_training import small_recipe, write_sets
from train.evaluate.data_check import Opened, check_outputs
from train.recipe import TrainRecipe
from train.sources import look_up


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    write_sets(folder)
    return folder


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe with its data beside it; the caller is in another folder."""
    for name in ("real", "synthetic", "test", "held-out"):
        shutil.copytree(made / name, tmp_path / "project" / name)
    write_recipe(tmp_path / "project")
    (tmp_path / "caller").mkdir()
    monkeypatch.chdir(tmp_path / "caller")
    return tmp_path / "project"


def write_recipe(folder: Path, **changes: Any) -> Path:
    """With relative sources, as a person writes them."""
    plain = small_recipe(Path("x"), **changes).model_dump(mode="json", exclude_defaults=True)
    text = yaml.safe_dump(plain).replace("x/", "")
    path = folder / "birds.yaml"
    path.write_text(text)
    return path


def train(project: Path, *arguments: str) -> Result:
    return CliRunner().invoke(sixfold.command_line(), ["train", str(project / "birds.yaml"), *arguments])


def lines_of(error: BaseException | None) -> list[str]:
    assert isinstance(error, ValueError), error
    return str(error).split("\n")


class Begun(Exception):
    """The training would begin now."""


@pytest.fixture
def not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(*_: object, **__: object) -> None:
        raise Begun

    monkeypatch.setattr("train.run.train", begin)


@pytest.mark.usefixtures("not_begun")
def test_a_training_and_its_dry_run_name_each_source_once_by_its_path(project: Path) -> None:
    (project.parent / "caller" / "synthetic").mkdir()
    places = {
        "data.domains.real": project / "real",
        "data.domains.synthetic": project / "synthetic",
        "evaluate.validation": project / "test",
        "evaluate.tests.one": project / "held-out",
    }
    begun, tried = train(project), train(project, "--dry-run")
    assert isinstance(begun.exception, Begun)
    assert tried.exit_code == 0, tried.output
    for field, path in places.items():
        assert begun.stdout.splitlines().count(f"{field}: {path}") == 1
        assert tried.stdout.splitlines().count(f"# {field}: {path}") == 1
    taken = f"takes {project / 'synthetic'}, not {project.parent / 'caller/synthetic'}; give the whole path"
    assert begun.stderr.count(taken) == tried.stderr.count(taken) == 1
    assert TrainRecipe.model_validate(yaml.safe_load(tried.stdout)).name == "small", "what is said is a comment there"


@pytest.mark.parametrize("words", [[], ["--dry-run"]], ids=" ".join)
@pytest.mark.usefixtures("not_begun")
def test_all_sources_that_are_missing_come_in_one_answer_before_torch(words: list[str], project: Path) -> None:
    shutil.rmtree(project / "real")
    shutil.rmtree(project / "held-out")
    (project / "held-out").mkdir()
    said = lines_of(train(project, *words, "model.pretrained=weights").exception)
    for line, start in zip(said, ("data.domains.real: ", "evaluate.tests.one: ", "model.pretrained"), strict=True):
        assert line.startswith(start)
    mixed = lines_of(train(project, *words, "optim.lrr=1", "schedule.epoch_steps=0", "optim.warmup_steps=99").exception)
    for one in (
        "unknown key `optim.lrr`; did you mean `lr`?",
        "`schedule.epoch_steps`",
        "optim.warmup_steps",
        "data.domains.real: ",
    ):
        assert sum(one in line for line in mixed) == 1, mixed


@pytest.mark.usefixtures("not_begun")
def test_a_subset_that_is_not_there_is_refused_before_torch(project: Path) -> None:
    (line,) = lines_of(train(project, "--dry-run", "data.domains.1.subset=6x").exception)
    assert line.startswith("data.domains.synthetic: ")
    assert "subsets/6x: found no such subset, expected one of: " in line


def test_a_dry_run_knows_the_names_of_models(project: Path) -> None:
    (line,) = lines_of(train(project, "--dry-run", "model.name=resnet5", "model.aux=none").exception)
    assert line.startswith("model.name: found 'resnet5', expected sandbox_resnet, ")
    assert line.endswith(" or a model of timm; did you mean resnet50?")


@pytest.mark.usefixtures("not_begun")
def test_a_training_that_is_done_needs_no_data(project: Path) -> None:
    shutil.rmtree(project / "real")
    (project / "done").mkdir()
    (project / "done" / "model.json").write_text("{}")
    resolved = load_recipe(project / "birds.yaml", TrainRecipe)
    (project / "done" / "recipe.yaml").write_text(dump_recipe(resolved))
    assert isinstance(train(project, "--out", str(project / "done")).exception, Begun)


def write_generated(folder: Path, ids: list[int]) -> None:
    """A data set with a list of its classes, as `sixfold generate` leaves one."""
    write_data_set(folder)
    (folder / "_meta").mkdir(exist_ok=True)
    (folder / "_meta" / "classes.json").write_text(json.dumps([[one, f"class {one}", None, 4] for one in ids]))


@pytest.mark.usefixtures("not_begun")
@pytest.mark.parametrize("kind", ["generated", "imported", "folders"])
def test_a_model_with_too_few_outputs_is_refused_before_torch_and_one_with_more_is_told(
    kind: str, project: Path
) -> None:
    shutil.rmtree(project / "real")
    if kind == "generated":
        write_generated(project / "real", [0, 1, 2, 3, 7])
    elif kind == "imported":
        write_data_set(project / "real")
    else:
        for number in range(8):
            (project / "real" / f"bird {number}").mkdir(parents=True)
            (project / "real" / f"bird {number}" / "0.jpg").write_bytes(encode_jpeg(picture(0, number)))
    top = 4 if kind == "imported" else 7
    own = ["data.domains.1=null", "evaluate.validation=null", "evaluate.tests={}", "model.aux=none", "--dry-run"]
    for words in (own, own[:-1]):
        (line,) = lines_of(train(project, *words, "model.num_classes=3").exception)
        assert line == (
            f"model.num_classes: found 3, expected at least {top + 1}, for data.domains.real has the class id {top}; "
            f"set model.num_classes={top + 1}"
        )
    assert "num_classes: found" not in train(project, *own, f"model.num_classes={top + 1}").stderr
    more = train(project, *own, f"model.num_classes={top + 3}")
    assert more.exit_code == 0
    told = f"class ids up to {top}; 2 outputs will have no picture: set model.num_classes={top + 1} unless"
    assert more.stderr.count(told) == (0 if kind == "imported" else 1), "of a part of the tables nobody knows all"


@pytest.mark.parametrize("told", ["[]", "[[]]", "7", "null", '[["a"], {}]', '{"0": "heron"}'])
def test_a_list_of_classes_that_somebody_changed_tells_nothing_and_harms_nobody(project: Path, told: str) -> None:
    write_generated(project / "real", [0])
    (project / "real" / "_meta" / "classes.json").write_text(told)
    words = ["data.domains.1=null", "evaluate.validation=null", "evaluate.tests={}", "model.aux=none", "--dry-run"]
    found = train(project, *words, "model.num_classes=9")
    assert found.exit_code == 0, found.exception
    assert "outputs will have no picture" not in found.stderr


def test_a_set_that_grows_and_has_no_shard_yet_is_looked_up(project: Path) -> None:
    shutil.rmtree(project / "synthetic")
    (project / "synthetic" / "_meta").mkdir(parents=True)
    (project / "synthetic" / "_meta" / "run.json").write_text("{}")
    words = ["data.domains.1.grow=true", "evaluate.validation=null", "evaluate.tests={}", "--dry-run"]
    found = train(project, *words)
    assert found.exit_code == 0, found.exception


def test_a_training_tells_of_outputs_without_a_class_by_what_it_reads(made: Path) -> None:
    opened = Opened("data.domains.real", str(made / "real"), load_index(str(made / "real")))
    assert check_outputs([opened], 5) == []
    assert (
        "found 9, and the data has class ids up to 4; 4 outputs will have no picture" in check_outputs([opened], 9)[0]
    )
    with pytest.raises(ValueError, match="found 4, expected at least 5"):
        check_outputs([opened], 4)


def test_looking_up_loads_no_torch(project: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from cluster.recipes.load import load_recipe; from train.recipe import "
        "TrainRecipe; from train.sources import look_up; found = look_up(load_recipe(Path(sys.argv[1]), TrainRecipe)); "
        "print(len(found.places), [name for name in ('torch', 'timm') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(project / "birds.yaml")]
    done = subprocess.run(command, cwd=home(), capture_output=True, text=True, timeout=100)
    assert done.stdout == "4 []\n", done.stderr


def test_a_recipe_that_is_sound_and_whole_is_looked_up_like_its_sound_part(project: Path) -> None:
    seen: list[Any] = []

    def keep(part: TrainRecipe) -> tuple[str, ...]:
        seen.append(look_up(part))
        return seen[-1].refused

    path = project / "birds.yaml"
    with pytest.raises(ValueError, match=r"optim\.lrr"):
        load_recipe(path, TrainRecipe, ["optim.lrr=1"], keep)
    assert seen == [look_up(load_recipe(path, TrainRecipe))]

"""What the Tab key offers: recipes that can be found, fields that there are, values that fit."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.recipes.complete import override_words, recipe_files
from gen.run.recipe import Recipe
from shards.disk.home import home
from train.recipe import TrainRecipe
from train.sweep.plan import SweepSpec


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("sampler.ste", ["sampler.steps="]),
        ("samp", ["sampler."]),
        ("see", ["seed="]),
        ("sampler.dtype=b", ["sampler.dtype=bf16"]),
        ("sampler.retry_fp32=", ["sampler.retry_fp32=true", "sampler.retry_fp32=false"]),
        ("sampler.batch=", ["sampler.batch=auto"]),
        ("meanings.cl", ["meanings.clip."]),
        ("sampler.steps=", []),
        ("sampler.steps.", []),
        ("nothing.", []),
    ],
)
def test_fields_and_their_values_are_offered(typed: str, offered: list[str]) -> None:
    assert override_words(typed, "", Recipe) == offered


def test_every_field_is_offered_where_nothing_is_typed() -> None:
    assert [word.rstrip(".=") for word in override_words("", "", Recipe)] == list(Recipe.model_fields)


def test_a_list_is_entered_by_a_number_and_free_names_are_the_authors() -> None:
    assert override_words("data.domains.", "", TrainRecipe) == [f"data.domains.{number}." for number in range(4)]
    assert override_words("data.domains.1.qu", "", TrainRecipe) == ["data.domains.1.quota="]
    assert override_words("points.", "", SweepSpec) == []


def test_a_shell_that_splits_words_at_the_equals_sign_gets_values_alone() -> None:
    assert override_words("b", "sampler.dtype", Recipe) == ["bf16"]
    assert override_words("samp", "recipes/sandbox.yaml", Recipe) == ["sampler."]


def test_recipes_of_the_working_folder_come_first_and_those_that_ship_are_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mine.yaml", "notes.txt", ".hidden.yaml", "deep/inner.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert recipe_files("") == ["deep/", "mine.yaml", "recipes/"]
    assert recipe_files("deep/") == ["deep/inner.yaml"]
    assert recipe_files(f"{tmp_path}/m") == [f"{tmp_path}/mine.yaml"]
    names = ("sandbox-retrieve", "sandbox-train", "sandbox-vit", "sandbox")
    assert recipe_files("recipes/sandb") == [f"recipes/{name}.yaml" for name in names]
    assert "recipes/sweeps/scale.yaml" in recipe_files("recipes/sweeps/")
    assert recipe_files("sandbox/") == [], "what ships beside recipes is no recipe"


def test_bash_completes_a_command_as_it_is_typed(tmp_path: Path) -> None:
    """The script that `--completion bash` prints, in a real bash, whose function fills COMPREPLY."""
    said = subprocess.run(
        [sys.executable, "-m", "sixfold", "--completion", "bash"],
        cwd=home(), capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    (tmp_path / "sixfold").write_text(f'#!/bin/sh\ncd {home()} && exec {sys.executable} -m sixfold "$@"\n')
    (tmp_path / "sixfold").chmod(0o755)
    program = said.stdout + (
        '\nCOMP_WORDS=(sixfold generate recipes/sandbox.yaml sampler.ste)\nCOMP_CWORD=3\ncompopt() { echo "$@"; }\n'
        '_sixfold_completion sixfold\necho "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", program],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["-o nospace", "sampler.steps="], done.stderr

"""Which code runs is known, and compared."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest

from cluster.code import PACKAGES, code_hash, difference, library_versions, write_archive
from shards.disk.home import home
from sixfold import own_code_first


def tree(root, **files):
    for name, text in files.items():
        path = root / re.sub("_(py|yaml|json)$", r".\1", name.replace("__", "/"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_the_hash_is_of_names_and_contents_of_the_packages_and_of_nothing_else(tmp_path):
    one = tree(tmp_path / "one", gen__plan_py="a = 1", shards__deep__tar_py="b = 2", sixfold_py="c = 3")
    same = tree(tmp_path / "two", sixfold_py="c = 3", shards__deep__tar_py="b = 2", gen__plan_py="a = 1")
    tree(same, tests__test_x_py="anything", gen__notes="not code")
    assert code_hash(one) == code_hash(same)
    assert len(code_hash(one)) == 64
    changed = [
        tree(tmp_path / "content", gen__plan_py="a = 2", shards__deep__tar_py="b = 2", sixfold_py="c = 3"),
        tree(tmp_path / "name", gen__plans_py="a = 1", shards__deep__tar_py="b = 2", sixfold_py="c = 3"),
        tree(tmp_path / "roof", gen__plan_py="a = 1", shards__deep__tar_py="b = 2", sixfold_py="c = 4"),
        tree(tmp_path / "missing", gen__plan_py="a = 1", sixfold_py="c = 3"),
        tree(tmp_path / "border", gen__plan_py="a = 1b = 2", shards__deep__tar_py="", sixfold_py="c = 3"),
    ]
    assert len({code_hash(one), *map(code_hash, changed)}) == 6


def test_b22_versions_that_differ_are_named_side_by_side():
    ours = {"code": "aa", "python": "3.11.7", "ray": "2.60.0"}
    assert difference(ours, dict(ours)) == ""
    assert difference(ours, ours | {"ray": "2.61.0"}) == "ray 2.60.0 here, 2.61.0 there"
    assert difference(ours, {"code": "aa", "python": "3.12.1"}) == (
        "python 3.11.7 here, 3.12.1 there; ray 2.60.0 here, absent there"
    )


def test_an_absent_library_has_a_version_too():
    assert library_versions(["no-such-distribution-at-all"]) == {"no-such-distribution-at-all": "absent"}


def test_this_checkout_is_at_home():
    own_code_first(home())


ROOF = f"""
import sys, importlib.util, pathlib
spec = importlib.util.spec_from_file_location("roof", {str(home() / "sixfold.py")!r})
roof = importlib.util.module_from_spec(spec)
spec.loader.exec_module(roof)
"""


def run_beside(folder, script):
    return subprocess.run(
        [sys.executable, "-c", ROOF + script],
        cwd=folder, env={"PYTHONPATH": f"{folder}:{home()}"}, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip


def test_our_code_is_found_before_a_module_of_the_same_name_in_the_folder_of_a_user(tmp_path):
    (tmp_path / "train.py").write_text("raise SystemExit('the one of the user')")
    (tmp_path / "gen").mkdir()
    (tmp_path / "gen" / "__init__.py").write_text("raise SystemExit('the one of the user')")
    result = run_beside(tmp_path, "roof.command_line(); import gen, train; print(gen.__file__, train.__file__)")
    assert result.stdout.split() == [str(home() / name / "__init__.py") for name in ("gen", "train")], result.stderr


@pytest.mark.parametrize("imported", PACKAGES[:2])
def test_a_package_of_the_same_name_that_is_imported_already_is_named(tmp_path, imported):
    (tmp_path / f"{imported}.py").write_text("")
    result = run_beside(tmp_path, f"import {imported}; roof.own_code_first(pathlib.Path({str(home())!r}))")
    assert result.returncode == 1
    assert f"ImportError: `{imported}` comes from {tmp_path}" in result.stderr


def test_the_archive_holds_our_code_and_what_it_reads_whatever_else_lies_beside_it(tmp_path):
    """The files that a wheel installs, but for what only the driver reads."""
    root = tree(
        tmp_path / "here", gen__plan_py="a = 1", gen__words_yaml="b: 2", sixfold_py="c = 3", train_py="not ours"
    )
    tree(root, out__00000="", notes__gen_py="", sandbox__models__generator__model_index_json="{}")
    for big in ("gen/weights.safetensors", "sandbox/models/mine.safetensors", "my-model.safetensors", "out/00000.tar"):
        with (root / big).open("wb") as file:
            file.truncate(600 * 2**20)
    archive = tmp_path / "code.zip"
    write_archive(root, archive)
    with zipfile.ZipFile(archive) as found:
        assert found.namelist() == [
            "gen/plan.py", "gen/words.yaml", "sandbox/models/generator/model_index.json", "sixfold.py",
        ]  # fmt: skip
        assert found.read("gen/words.yaml") == b"b: 2"


def test_the_archive_has_everything_that_our_packages_read_beside_their_code(tmp_path):
    write_archive(home(), tmp_path / "code.zip")
    with zipfile.ZipFile(tmp_path / "code.zip") as archive:
        archive.extractall(tmp_path / "there")
    for package in PACKAGES:
        ours = {file.relative_to(home()) for file in (home() / package).rglob("*") if "__pycache__" not in file.parts}
        theirs = {file.relative_to(tmp_path / "there") for file in (tmp_path / "there" / package).rglob("*")}
        assert {name for name in ours - theirs if (home() / name).is_file()} == set()
    assert code_hash(tmp_path / "there") == code_hash(home())


def test_one_code_gives_one_archive(tmp_path):
    archives = []
    for number in range(2):
        root = tree(tmp_path / str(number), gen__plan_py="a = 1", shards__deep__tar_py="b = 2", sixfold_py="c = 3")
        os.utime(root / "sixfold.py", (number, number))
        (root / "sixfold.py").chmod(0o600 + number)
        write_archive(root, tmp_path / f"{number}.zip")
        archives.append((tmp_path / f"{number}.zip").read_bytes())
    assert archives[0] == archives[1]


def test_what_a_wheel_installs_plans_a_shipped_recipe_from_a_folder_with_a_train_py(tmp_path):
    settings = tomllib.loads((home() / "pyproject.toml").read_text())
    for name in settings["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]:
        (tmp_path / "installed").mkdir(exist_ok=True)
        (shutil.copytree if (home() / name).is_dir() else shutil.copy)(home() / name, tmp_path / "installed" / name)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "train.py").write_text("raise SystemExit('the one of the user')")
    result = subprocess.run(
        [sys.executable, "-m", "sixfold", "plan", "recipes/sandbox.yaml", "--scale", "1x"],
        cwd=mine, env={"PYTHONPATH": f"{mine}:{tmp_path / 'installed'}"}, capture_output=True, text=True, timeout=200,
        check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "200" in result.stdout

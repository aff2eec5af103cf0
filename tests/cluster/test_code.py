"""Which code runs is known, and compared."""

import subprocess
import sys

import pytest

from cluster.code import PACKAGES, code_hash, difference, library_versions
from shards.disk.home import home
from sixfold import check_home


def tree(root, **files):
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_py", ".py")
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
    check_home(home())


@pytest.mark.parametrize("shadowed", PACKAGES[:2])
def test_a_package_of_the_same_name_elsewhere_is_named(tmp_path, shadowed):
    (tmp_path / shadowed).mkdir()
    (tmp_path / shadowed / "__init__.py").write_text("")
    script = (
        "import sys, importlib.util, pathlib\n"
        f"spec = importlib.util.spec_from_file_location('roof', {str(home() / 'sixfold.py')!r})\n"
        "roof = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(roof)\n"
        f"roof.check_home(pathlib.Path({str(home())!r}))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd="/", env={"PYTHONPATH": f"{tmp_path}:{home()}"}, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert f"ImportError: `{shadowed}` comes from {tmp_path}" in result.stderr

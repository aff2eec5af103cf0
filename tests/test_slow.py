"""Which tests `make test` leaves to `make test-slow`: tests/slow.txt says so, `make test-times` writes it."""

import ast
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import conftest

ROOT = Path(__file__).resolve().parents[1]


def _functions(file: str) -> set[str]:
    """The names of the tests of a file, those of classes with their class."""
    found: set[str] = set()
    for node in ast.parse((ROOT / file).read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found.add(f"{file}::{node.name}")
        elif isinstance(node, ast.ClassDef):
            found |= {f"{file}::{node.name}::{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
    return found


def test_every_slow_test_is_there():
    names = conftest.SLOW.read_text().split()
    assert names == sorted(set(names))
    there = {name for file in {name.partition("::")[0] for name in names} for name in _functions(file)}
    assert not set(names) - there, "renamed or gone: mend tests/slow.txt"


def test_most_tests_are_not_slow_and_each_room_keeps_some_that_are_not():
    slow = set(conftest.SLOW.read_text().split())
    for room in ("cluster", "gen", "retrieve", "shards", "train"):
        files = (path.relative_to(ROOT).as_posix() for path in (ROOT / "tests" / room).rglob("test_*.py"))
        names = {name for file in files for name in _functions(file) if name.rpartition("::")[2].startswith("test")}
        assert len(names - slow) > len(names) / 2


def test_a_name_is_slow_by_all_of_its_tests_and_one_that_did_not_run_keeps_its_line(tmp_path: Path, monkeypatch: Any):
    monkeypatch.setattr(conftest, "SLOW", tmp_path / "slow.txt")
    monkeypatch.setattr(conftest, "seconds", {})
    conftest.SLOW.write_text("a.py::gone\na.py::was_slow\n")
    half = conftest.SLOW_S / 2
    for name, spent_s in [
        ("a.py::many[1]", half),
        ("a.py::many[x::y[2]]", half),
        ("a.py::was_slow", half / 2),
        ("a.py::fast[1]", 0.1),
    ]:
        conftest.pytest_runtest_logreport(SimpleNamespace(nodeid=name, duration=spent_s))  # type: ignore[arg-type]
    session: Any = SimpleNamespace(config=SimpleNamespace(getoption=lambda name: True))
    conftest.pytest_sessionfinish(session)
    assert conftest.SLOW.read_text().split() == ["a.py::gone", "a.py::many"]
    session.config.workerinput = {}
    conftest.SLOW.unlink()
    conftest.pytest_sessionfinish(session)
    assert not conftest.SLOW.exists()


@pytest.mark.parametrize(("name", "marked"), [("many", True), ("fast", False)])
def test_a_slow_test_is_marked(tmp_path: Path, monkeypatch: Any, name: str, marked: bool):
    monkeypatch.setattr(conftest, "SLOW", tmp_path / "slow.txt")
    conftest.SLOW.write_text("a.py::many\n")
    marks: list[Any] = []
    item: Any = SimpleNamespace(nodeid=f"a.py::{name}[1]", path=tmp_path / "a.py", add_marker=marks.append)
    monkeypatch.setattr(conftest.gc, "freeze", lambda: None)
    conftest.pytest_collection_modifyitems([item])
    assert marks == ([pytest.mark.slow] if marked else [])

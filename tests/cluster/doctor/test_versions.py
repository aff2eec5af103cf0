"""I9: libraries below the floors of known security holes are bad news."""

import importlib.metadata

import pytest

from cluster.doctor.check import Check
from cluster.doctor.versions import FLOORS, FLOORS_IF_THERE, numbers_of, versions


def checks(**changed: str | None) -> dict[str, Check]:
    """With other versions than those that are installed; None: not installed."""

    def version_of(package: str) -> str:
        version = changed.get(package.replace("-", "_"), "0")
        if version is None or package.replace("-", "_") not in changed:
            raise importlib.metadata.PackageNotFoundError(package)
        return version

    return {check.name: check for check in versions(version_of)}


def test_i9_installed_versions_are_above_the_floors() -> None:
    for check in versions():
        assert check.verdict == "ok", check


@pytest.mark.parametrize(
    ("package", "below", "floor"),
    [
        *(("ray", "2.59.1", "2.60.0"), ("torch", "2.9.1+cu128", "2.10.0"), ("pillow", "12.3.0", "13.0.0")),
        *(("pillow", "13.0.0rc1", "13.0.0"), ("safetensors", "0.4.5", "0.5.0"), ("hydra-core", "1.3.3", "1.3.4")),
        *(("ray", "2.60.0.dev0", "2.60"), ("ray", "unknown", "3")),
    ],
)
def test_i9_a_version_below_its_floor_is_bad_and_the_floor_itself_is_good(package: str, below: str, floor: str) -> None:
    name = package.replace("-", "_")
    bad = checks(**{name: below})[package]
    assert (bad.verdict, bad.found) == ("bad", below)
    assert "security holes" in bad.advice
    assert checks(**{name: floor})[package].verdict == "ok"


def test_a_library_that_we_need_is_missed_and_one_that_we_do_not_need_is_not() -> None:
    found = checks()
    assert {found[package].found for package in FLOORS} == {"not installed"}
    assert not FLOORS_IF_THERE.keys() & found.keys()


def test_versions_are_compared_as_numbers() -> None:
    assert numbers_of("2.13.0+cu130") == (2, 13, 0)
    assert numbers_of("2.9") < numbers_of("2.10")
    assert numbers_of("13.0.0rc1") < (13, 0, 0) <= numbers_of("13.0.0.post1")
    assert numbers_of("13") >= (13, 0, 0)

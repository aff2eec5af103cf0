"""The pages of measured results: what they may not say."""

from pathlib import Path

import pytest

from shards.disk.checked_json import plain_json
from shards.disk.home import home

PAGES = ("docs/RESULTS.md", "docs/BENCHMARKS.md", "docs/EDIT.md", "docs/data/report.html")


@pytest.mark.parametrize("page", PAGES)
def test_a_page_names_no_folder_of_the_machine_that_wrote_it(page: str) -> None:
    text = (home() / page).read_text(encoding="utf-8")
    found = [line[:160] for line in text.splitlines() if "/tmp/" in line]
    assert found == []


@pytest.mark.parametrize("file", sorted((home() / "docs" / "data").rglob("*.json")), ids=lambda file: file.name)
def test_figures_are_json_for_every_reader(file: Path) -> None:
    plain_json(file.read_bytes())

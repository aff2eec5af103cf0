"""The dashboard and its page: every name they show is a figure that a run exports, every figure is shown."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from cluster.fan_out.metrics import METRICS, PREFIX
from shards.disk.home import home

DASHBOARD: dict[str, Any] = json.loads((home() / "docs" / "grafana.json").read_text(encoding="utf-8"))
PAGE = (home() / "docs" / "MONITORING.md").read_text(encoding="utf-8")
GRAPHS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
COLUMNS = 24  # of Grafana's grid


def expressions() -> Iterator[str]:
    for panel in GRAPHS:
        for target in panel["targets"]:
            yield target["expr"]


def names_of(expression: str) -> set[str]:
    """The metrics in it: names that are followed by a selector."""
    return set(re.findall(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\{", expression))


def metric(name: str) -> str:
    assert name.startswith(PREFIX), name
    return name.removeprefix(PREFIX)


@pytest.mark.parametrize("expression", sorted(set(expressions())))
def test_an_expression_asks_for_figures_that_a_run_exports_by_labels_that_they_have(expression: str) -> None:
    names = {metric(name) for name in names_of(expression)}
    assert names
    assert names <= METRICS.keys()
    assert set(re.findall(r"\bray_\w+", expression)) == names_of(expression), "each with a selector"
    for name, by in re.findall(r"by \(([^)]*)\) \(\w*\(?ray_(\w+)\{", expression):
        assert set(name.split(", ")) <= set(METRICS[by].labels)
    for labels in re.findall(r"\{([^}]*)\}", expression):
        assert labels == 'run=~"$run"'
    assert expression.count("(") == expression.count(")")


def test_counters_are_shown_as_rates_gauges_as_they_are_and_what_is_rare_as_a_total() -> None:
    """A series of Ray's begins with its first event, so the rate of what happens once is 0."""
    for panel in GRAPHS:
        for expression in (target["expr"] for target in panel["targets"]):
            for call, name, window in re.findall(r"(\w*) ?\((ray_\w+)\{[^}]*\}(\[[^\]]*\])?", expression):
                is_rate = METRICS[metric(name)].kind == "counter" and panel["title"] != "Trouble so far"
                assert (call in ("rate", "increase"), bool(window)) == (is_rate, is_rate), expression


def test_every_figure_is_on_the_dashboard() -> None:
    shown = {metric(name) for expression in expressions() for name in names_of(expression)}
    assert shown == METRICS.keys()


def test_every_figure_is_on_the_page_with_its_kind_and_labels() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]+) \| ([^|]+) \|$", PAGE, re.MULTILINE)
    assert rows == [
        (PREFIX + name, one.kind, ", ".join(f"`{label}`" for label in one.labels), one.about)
        for name, one in METRICS.items()
    ]


def test_every_panel_has_an_id_a_title_and_a_place_of_its_own() -> None:
    panels = DASHBOARD["panels"]
    for key in ("id", "title"):
        values = [panel[key] for panel in panels]
        assert len(set(values)) == len(values)
        assert all(values)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= COLUMNS
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells, panel["title"]
        taken |= cells


def test_every_query_asks_the_data_source_that_a_person_chooses() -> None:
    variables = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    assert variables["run"]["datasource"] == chosen
    for panel in GRAPHS:
        assert panel["datasource"] == chosen
        assert panel["description"]
        assert [target["datasource"] for target in panel["targets"]] == [chosen] * len(panel["targets"])
        ids = [target["refId"] for target in panel["targets"]]
        assert len(set(ids)) == len(ids)


def test_the_list_of_runs_comes_from_figures_that_exist() -> None:
    [run] = [one for one in DASHBOARD["templating"]["list"] if one["name"] == "run"]
    alternatives = re.search(r'"ray_sixfold_\((.*)\)"', run["query"]["query"])
    assert alternatives is not None
    for name in alternatives[1].split("|"):
        assert "run" in METRICS[f"sixfold_{name}"].labels

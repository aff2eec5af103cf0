"""The report: says what the results say and no more, on a page where every text is only text."""

import json
import random
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import sixfold
from shards.views.page import STYLE
from tests.shards.views.test_gallery import Page, chromium, contrast, needs_chromium, pixel
from tests.support.hostile_text import BENIGN, PAYLOADS
from tests.support.small_data_set import write_data_set
from tests.support.training_results import result
from train.evaluate.results import RESULTS, Result, append_results, result_line
from train.report.charts import panels
from train.report.comparison import Sweep, compare
from train.report.report import MAX_RUNS, PAGES, _changes, write_report
from train.report.words import markdown_table, points, results_table, verdicts

N = 1000


def line(label: str, number: int, seed: int, right: int, x: float | None = None, **changes: object) -> Result:
    place = {"label": label, "number": number, "x": x, "baseline": changes.pop("baseline", "0x")}
    place["line"] = changes.pop("line", None)
    fields = {"run": f"{label}-s{seed}", "recipe": f"{number * 100 + seed:064x}", "seed": seed}
    sweep = {"name": changes.pop("sweep", "scale"), "point": place}
    return result(right, int(str(changes.pop("n", N))), 10, **{**fields, "sweep": sweep, **changes})


def curve(gains: dict[int, list[int]], name: str = "real-test") -> list[Result]:
    """Right answers by scale and seed."""
    return [
        line(f"{scale}x", place, seed, right, float(scale), set=name)
        for place, (scale, rights) in enumerate(gains.items())
        for seed, right in enumerate(rights)
    ]


def uncorrected(sweep: Sweep) -> str:
    """Everything about a sweep but the p values after correction."""
    return re.sub(r"adjusted_p=[^,)]+", "", str(sweep))


def report_of(folder: Path, results: list[Result]) -> Page:
    for one in results:
        append_results(folder / "run" / RESULTS, [one])
    return Page(write_report([folder], folder / "report.html"))


def text_of(page: Page) -> str:
    return " ".join(" ".join(page.texts).split())


# what it says


def test_both_branches_have_a_table_of_their_own_and_leave_the_others_alone(tmp_path):
    main = curve({0: [700, 705, 695], 6: [718, 724, 712]})
    other = [one.model_copy(update={"branch": "synthetic", "top1": (round(one.top1 * N) + 30) / N}) for one in main[3:]]
    alone, both = compare(main), compare([*main, *other])
    assert uncorrected(both.sweeps[0]) == uncorrected(alone.sweeps[0])
    assert [len(one.families["scale"]) for one in (alone, both)] == [1, 2]  # but more comparisons need smaller p values
    assert [sweep.title for sweep in both.sweeps[1:]] == ["Accuracy against scale: main and auxiliary branch"]
    table = both.sweeps[1]
    assert [(row.label, row.baseline) for row in table.rows] == [("6x", "6x"), ("6x, BN of synthetic", "6x")]
    difference = table.rows[1].cells["real-test"].difference
    assert difference is not None
    assert difference.value == pytest.approx(30 / N)
    single = [one.model_copy(update={"sweep": None}) for one in (main[3], other[0])]
    assert [one.run for one in compare(single).singles] == [main[3].run, f"{main[3].run}, BN of synthetic"]


def test_the_first_sentence_says_by_how_much_synthetic_data_paid_off(tmp_path):
    page = report_of(tmp_path, curve({0: [700, 710, 705, 695, 702], 6: [718, 729, 724, 712, 720]}))
    said = "A gain over this baseline. 6x adds +1.8 points [1.7, 1.9] on real-test over real images only, 5 seeds, "
    assert said + "adjusted p < 0.001." in text_of(page)


@pytest.mark.parametrize(
    ("after", "head"),
    [
        ([701, 708, 709, 693, 701], "No difference that 5 seeds could show."),
        ([690, 699, 694, 686, 691], "A loss against this baseline."),
        ([700, 710, 705, 695, 702], "No difference that 5 seeds could show."),
        ([710, 720, 715, 705, 712], "No difference that 5 seeds could show."),  # equal gains have no spread to judge by
    ],
)
def test_a_claim_is_made_only_when_the_interval_leaves_zero_out(after, head):
    [sweep] = compare(curve({0: [700, 710, 705, 695, 702], 6: after})).sweeps
    [verdict] = verdicts(sweep)
    assert verdict.head == head


def test_one_seed_is_no_evidence():
    [sweep] = compare(curve({0: [700], 6: [900]})).sweeps
    assert verdicts(sweep)[0].head == "One seed cannot tell."
    assert verdicts(sweep)[0].tone == "open"


def test_two_seeds_are_shown_themselves_and_have_no_interval(tmp_path):
    results = curve({0: [400, 300], 6: [640, 654]})
    text = text_of(report_of(tmp_path, results))
    said = "Two seeds cannot tell. 6x changes real-test by +29.7 points against real images only (seeds +24.0, +35.4)."
    assert said in text
    assert "64.7 (64.0, 65.4)" in text
    assert "[" not in text[text.index(said) : text.index("What was run")]
    [sweep] = compare(results).sweeps
    [panel] = panels(sweep)
    [drawn] = panel.lines
    assert (drawn.band, len(drawn.seeds)) == ("", 4)
    assert "| 6x | 2 | 64.7 \\(64.0, 65.4\\); +29.7 \\(seeds +24.0, +35.4\\) |" in results_table(compare(results))


def test_the_verdict_stands_in_one_table_with_a_column_for_each_test_set(tmp_path):
    right = {"real-test": [520, 531, 524], "sketch": [480, 493, 485], "v2": [501, 510, 504]}
    results = [one for name, after in right.items() for one in curve({0: [500, 510, 505], 2: after}, name)]
    page = report_of(tmp_path, results)
    text = text_of(page)
    start = text.index("points of top-1 accuracy")
    table = text[start : text.index("In brackets the 95 % interval")]
    assert "2x over real images only Accuracy against scale +2.0 [1.8, 2.2] gain adjusted p 0.002" in table
    assert "−1.9 [−2.3, −1.5] loss adjusted p 0.006" in table
    assert "0.0 [−0.2, 0.2] not shown adjusted p 1.000 3" in table
    assert len([1 for tag, found in page.elements if tag == "svg" and found.get("class") == "curve"]) == 3
    assert text.count("A gain over this baseline") == 1


def test_validation_results_and_steps_that_were_not_selected_are_not_reported():
    results = [*curve({0: [700, 710], 6: [750, 770]})]
    noise = [
        line("6x", 1, 0, 999, 6.0, step=50, selected=False),
        line("6x", 1, 1, 999, 6.0, set="val", role="validation"),
    ]
    assert results_table(compare([*results, *noise])) == results_table(compare(results))


def test_a_missing_seed_is_named_and_the_pairs_that_are_there_are_compared(tmp_path):
    compared = compare(curve({0: [700, 710, 705], 6: [718, 729]}))
    assert compared.problems == ("scale, 6x: found no result for the seeds [2]; run the sweep again",)
    difference = compared.sweeps[0].rows[1].cells["real-test"].difference
    assert difference is not None
    assert difference.n == 2


def test_accuracies_on_different_pictures_are_not_compared(tmp_path):
    def on(label: str, number: int, seed: int, right: int, digest: str, n: int = N) -> Result:
        return line(label, number, seed, right, 6.0 * number, n=n, data={"real": "cd" * 32, "real-test": digest})

    before = [on("0x", 0, seed, 700 + seed, "aa" * 32) for seed in range(3)]
    after = [on("6x", 1, seed, 800 + 2 * seed, "aa" * 32) for seed in range(3)]
    assert verdicts(compare([*before, *after]).sweeps[0])[0].tone == "good"
    for other in (on("6x", 1, 2, 804, "bb" * 32), on("6x", 1, 2, 804, "aa" * 32, N + 1)):
        compared = compare([*before, *after[:2], other])
        assert verdicts(compared.sweeps[0]) == []
        assert compared.sweeps[0].rows[1].cells["real-test"].difference is None
        [problem] = compared.problems
        assert "found real-test of 6x and its baseline 0x measured on different pictures" in problem
    text = text_of(report_of(tmp_path, [*before, *after[:2], on("6x", 1, 2, 804, "bb" * 32)]))
    assert "measured on different pictures (1,000 images of digest aaaaaaaaaaaa, 1,000 images of digest bb" in text
    assert "over this baseline" not in text


def test_the_extremes_of_many_classes_are_not_coloured_and_the_page_says_why(tmp_path):
    def with_classes(label: str, number: int, seed: int, first: int) -> Result:
        counts = {0: (first, 100), 1: (50, 100)}
        return line(label, number, seed, first + 50, 6.0 * number, n=200, per_class=counts)

    results = [with_classes("0x", 0, seed, 50 + seed) for seed in range(3)]
    results += [with_classes("6x", 1, seed, 80 + 2 * seed) for seed in range(3)]
    page = report_of(tmp_path, results)
    assert "Classes that gained most" in text_of(page)
    assert "Not coloured: the extremes of many classes lie far from zero by chance alone" in text_of(page)
    [sweep] = compare(results).sweeps
    changes = _changes(sweep, {})
    assert changes is not None
    assert [bar.tone for bar in changes.better] == ["open"]


def test_results_that_are_cut_are_counted(tmp_path):
    results = [result(run=f"run-{number}", recipe=f"{number:064x}") for number in range(MAX_RUNS + 7)]
    text = text_of(report_of(tmp_path, results))
    assert "7 more results are not shown." in text
    assert f"{MAX_RUNS} of {MAX_RUNS + 7} runs" in text


def test_a_report_calls_no_address_that_a_recipe_names(tmp_path, monkeypatch):
    monkeypatch.setattr("train.report.report.open_for_reading", lambda url: pytest.fail(f"opened {url}"))
    (tmp_path / "run").mkdir()
    domain = {"name": "real", "source": "s3://somebody/else", "quota": 4}
    (tmp_path / "run" / "recipe.yaml").write_text(json.dumps({"data": {"domains": [domain]}}))
    assert "is not on this machine; a report shows local data sets only" in text_of(report_of(tmp_path, [result()]))


def test_a_torn_line_and_a_damaged_file_are_named_on_the_page(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.json").write_text("{")
    (tmp_path / "run" / RESULTS).write_bytes(b'{"run":')
    text = text_of(report_of(tmp_path, curve({0: [700, 710], 6: [718, 729]})))
    assert "2 things to know first" in text
    assert "results.jsonl:1: found a line that is not JSON" in text
    assert "model.json: found a file that cannot be read" in text


def test_classes_that_gained_and_lost_most_are_named(tmp_path):
    def with_classes(label: str, number: int, seed: int, first: int, second: int) -> Result:
        counts = {0: (first, 100), 1: (second, 100), 2: (50, 100)}
        right = first + second + 50
        return line(label, number, seed, right, 6.0 * number, n=300, per_class=counts)

    results = [with_classes("0x", 0, seed, 50 + seed, 60) for seed in range(3)]
    results += [with_classes("6x", 1, seed, 62 + 2 * seed, 51 - seed) for seed in range(3)]
    append_results(tmp_path / "run" / RESULTS, results)
    (tmp_path / "run" / "model.json").write_text(json.dumps({"class_names": ["heron", "crane", "stork"]}))
    text = text_of(Page(write_report([tmp_path], tmp_path / "report.html")))
    assert "Classes that gained most 6x against 0x on real-test: 1 gained, 1 lost, 1 the same heron (0) +13.0" in text
    assert "Classes that lost most 6x against 0x on real-test crane (1) −10.0" in text


def three_classes(run: str, place: int, seed: int, crane: int, heron: int, sweep: str) -> Result:
    per_class = {0: (heron, 100), 1: (crane, 100), 2: (70, 100)}
    fields = {"run": f"{run}-s{seed}", "n": 300, "per_class": per_class, "sweep": sweep}
    return line(run.rpartition("-")[2], place, seed, crane + heron + 70, **fields)


def write_sweep(folder: Path, name: str, class_names: list[str], evaluate: dict[str, object] | None = None) -> None:
    """Two points of three seeds, each run with its export."""
    for seed in range(3):
        for place, (label, heron, crane) in enumerate((("0x", 50 + seed, 60), ("6x", 62 + 2 * seed, 51 - seed))):
            one = three_classes(f"{name}-{label}", place, seed, crane, heron, name)
            append_results(folder / name / one.run / RESULTS, [one])
            (folder / name / one.run / "model.json").write_text(json.dumps({"class_names": class_names}))
            if evaluate is not None:
                (folder / name / one.run / "recipe.yaml").write_text(json.dumps({"evaluate": evaluate}))


def test_each_sweep_names_its_classes_as_its_own_runs_do(tmp_path):
    write_sweep(tmp_path, "birds", ["heron", "crane", "stork"])
    write_sweep(tmp_path, "boats", ["canoe", "punt", "raft"])
    text = text_of(Page(write_report([tmp_path], tmp_path / "report.html")))
    for names in ("heron (0) +13.0", "crane (1) −10.0", "canoe (0) +13.0", "punt (1) −10.0"):
        assert text.count(names) == 1, names


def test_the_ids_of_a_set_with_a_label_map_have_no_names_of_outputs(tmp_path):
    tests = {"real-test": {"source": "x", "labels": "map.json"}}
    write_sweep(tmp_path, "birds", ["heron", "crane", "stork"], {"tests": tests})
    text = text_of(Page(write_report([tmp_path], tmp_path / "report.html")))
    assert "class 0 +13.0" in text
    assert "heron" not in text


@pytest.mark.parametrize("address", ["{}", "file://{}"])
def test_pictures_of_the_training_data_are_embedded_and_bounded(tmp_path, address):
    write_data_set(tmp_path / "set", num_slots=40)
    (tmp_path / "runs" / "run").mkdir(parents=True)
    domains = [
        {"name": "real", "source": address.format(tmp_path / "set")},
        {"name": "synthetic", "source": address.format(tmp_path / "gone")},
    ]
    (tmp_path / "runs" / "run" / "recipe.yaml").write_text(json.dumps({"data": {"domains": domains}}))
    page = report_of(tmp_path / "runs", curve({0: [700, 710], 6: [718, 729]}))
    addresses = page.values("img", "src")
    assert 1 < len(addresses) <= 12
    assert all(address.startswith("data:image/jpeg;base64,") for address in addresses)
    assert {*page.values("img", "alt")} == {"zero", "one", "two", "crane"}
    assert "synthetic: gone cannot be shown" in text_of(page)


def test_distances_of_batch_norm_layers_are_drawn_as_means_over_runs(tmp_path):
    for seed, value in enumerate((0.2, 0.4)):
        folder = tmp_path / f"run-{seed}"
        append_results(folder / RESULTS, [line("6x", 1, seed, 700, 6.0), line("0x", 0, seed, 690, 0.0)])
        layers = [{"layer": "stem.bn", "domain": 1, "symmetric_kl": value}, {"layer": "head.bn", "symmetric_kl": None}]
        (folder / "bn_distances.json").write_text(json.dumps({"step": 6, "weights": "last", "layers": layers}))
    text = text_of(Page(write_report([tmp_path], tmp_path / "report.html")))
    assert "stem.bn 0.300" in text
    assert "head.bn" not in text


@pytest.mark.parametrize("value", ["1e308", "9" * 400, "9" * 5000, "-1e308", "1e999", "true", "[]"])
def test_a_distance_that_is_no_measured_number_is_left_out_and_the_page_is_there(tmp_path, value):
    for seed in (0, 1):
        folder = tmp_path / f"run-{seed}"
        append_results(folder / RESULTS, [line("6x", 1, seed, 700, 6.0)])
        layers = '{"layers": [{"layer": "stem.bn", "symmetric_kl": 0.3}, {"layer": "head.bn", "symmetric_kl": @}]}'
        (folder / "bn_distances.json").write_text(layers.replace("@", value))
    text = text_of(Page(write_report([tmp_path], tmp_path / "report.html")))
    assert ("stem.bn 0.300" in text) != ("found a file that cannot be read" in text)


POISON = ("1e308", "-1e308", "9" * 400, "9" * 5000, "1e-320", "9223372036854775808", "null", '"\\u202e"', "1e999", "[]")


def leaves(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The places of all values in JSON."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    inner = [place for key, below in items for place in leaves(below, (*path, key))]
    return inner or [path]


def test_a_poisoned_line_is_left_out_and_named_or_shown_and_never_ends_the_report(tmp_path):
    """Twice in each file: two numbers that are fine alone may have no sum."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    lines = [json.loads(result_line(one)) for one in curve({0: [600, 610], 6: [700, 710]})]
    places = leaves(lines[0])
    for number, place in enumerate(random.Random(seed).sample([(p, x) for p in places for x in POISON], 80)):
        (*above, last), poison = place
        changed = json.loads(json.dumps(lines))
        for one in changed[:2]:
            for key in above:
                one = one[key]
            one[last] = "POISON"
        folder = tmp_path / str(number)
        folder.mkdir()
        text = "".join(json.dumps(one) + "\n" for one in changed).replace('"POISON"', poison)
        (folder / RESULTS).write_text(text)
        page = text_of(Page(write_report([folder], folder / "report.html")))
        named = page.count("it is left out")
        assert named in (0, 2), (place, page)


def test_a_count_of_pictures_that_no_float_holds_is_left_out_of_what_was_held_fixed(tmp_path):
    found = curve({0: [600, 610], 6: [700, 710]})
    huge = found[0].model_copy(update={"images_seen": 10**400})
    assert "32 images a step at all points" in text_of(report_of(tmp_path, [huge, *found[1:]]))


def test_runs_outside_of_sweeps_have_wilson_intervals(tmp_path):
    text = text_of(report_of(tmp_path, [result(200, 240, 10, run="alone")]))
    assert "No sweep here." in text
    assert "alone real-test 83.3 [78.1, 87.5] 100.0 240" in text


def test_nothing_at_all_makes_a_page_that_says_so(tmp_path):
    text = text_of(Page(write_report([tmp_path], tmp_path / "report.html")))
    assert "No result here." in text
    assert "There is no result here yet" in text
    assert "These runs stand alone" not in text


def test_a_page_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"report\.html: cannot be written \(.+\); give another file for the page"):
        write_report([tmp_path], tmp_path / "file" / "report.html")


@pytest.mark.parametrize("spread", [2, 40, 300])
def test_no_axis_goes_above_100_percent_and_a_cut_band_has_a_mark(spread):
    after = [N, N - spread, N]
    [sweep] = compare(curve({0: [500, 510, 505], 6: after})).sweeps
    [panel] = panels(sweep)
    assert max(float(tick.text) for tick in panel.grid) <= 100
    assert min(float(tick.text) for tick in panel.grid) >= 0
    [drawn] = panel.lines
    [cut] = drawn.cuts
    assert re.fullmatch(r"6x: the interval goes on to 1\d\d\.\d %", cut.text)
    edge = min(dot.y for dot in drawn.means)
    assert all(float(pair.split(",")[1]) <= edge for pair in cut.points.split())


def test_a_band_inside_of_its_panel_has_no_mark():
    [sweep] = compare(curve({0: [500, 510, 505], 6: [700, 711, 705]})).sweeps
    [panel] = panels(sweep)
    assert panel.lines[0].band
    assert panel.lines[0].cuts == ()


def test_of_two_points_at_one_place_the_curve_has_the_first_and_the_table_both():
    control = [line("0x, again", 7, seed, 530, 0.0) for seed in range(2)]
    alone, both = (
        compare(curve({0: [500, 510], 6: [700, 711]})),
        compare(curve({0: [500, 510], 6: [700, 711]}) + control),
    )
    assert panels(both.sweeps[0]) == panels(alone.sweeps[0])
    assert [row.label for row in both.sweeps[0].rows] == ["0x", "6x", "0x, again"]


def two_lines() -> list[Result]:
    """0x of both lines; 3x and 6x synthetic against 0x, retrieved against as many synthetic ones."""
    rights = {("synthetic", 3): 520, ("synthetic", 6): 540, ("retrieved", 3): 560, ("retrieved", 6): 600}
    found = [line("0x", 0, seed, 500 + seed, 0.0) for seed in range(3)]
    for place, ((kind, x), right) in enumerate(rights.items(), 1):
        against = "0x" if kind == "synthetic" else f"{x}x synthetic"
        found += [
            line(
                f"{x}x {kind}",
                place,
                seed,
                right + (2 if kind == "synthetic" else 3) * seed,
                float(x),
                line=kind,
                baseline=against,
            )
            for seed in range(3)
        ]
    return found


def test_a_curve_of_two_lines_begins_both_at_the_point_that_is_on_all_and_names_them(tmp_path):
    [sweep] = compare(two_lines()).sweeps
    [panel] = panels(sweep)
    synthetic, retrieved = panel.lines
    assert (synthetic.name, retrieved.name) == ("synthetic", "retrieved")
    assert synthetic.means[0] == retrieved.means[0]
    assert [dot.x for dot in synthetic.means] == [dot.x for dot in retrieved.means]
    assert all(high.y < low.y for high, low in zip(retrieved.means[1:], synthetic.means[1:], strict=True))
    assert [tick.text for tick in panel.axis] == ["0", "3", "6"]
    text = text_of(report_of(tmp_path, two_lines()))
    assert "synthetic 54.2 (+4.1 against 0x)" in text
    assert "retrieved 60.3 (+6.1 against 6x synthetic)" in text


def test_a_baseline_at_0_that_is_not_called_0x_keeps_its_name():
    """Where a curve is over lambda, 0 leaves the synthetic images in."""
    results = [
        line(label, place, seed, right + seed, x, baseline="0")
        for place, (label, x, right) in enumerate((("0", 0.0, 700), ("1", 1.0, 720)))
        for seed in range(3)
    ]
    [verdict] = verdicts(compare(results).sweeps[0])
    assert "against 0:" in verdict.text
    assert "real images only" not in verdict.text


def test_each_line_of_a_curve_has_the_verdict_of_its_last_point(tmp_path):
    [sweep] = compare(two_lines()).sweeps
    said = [one.text for one in verdicts(sweep)]
    assert [text.split(" on ")[0].split(" [")[0] for text in said] == [
        "6x synthetic adds +4.1 points",
        "6x retrieved adds +6.1 points",
    ]
    text = text_of(report_of(tmp_path, two_lines()))
    assert "6x synthetic over real images only" in text
    assert "6x retrieved over 6x synthetic" in text


@pytest.mark.parametrize(("num", "pairs"), [(1, False), (2, True), (3, False), (4, True)])
def test_two_or_four_panels_stand_in_pairs(tmp_path, num, pairs):
    results = [one for name in "abcd"[:num] for one in curve({0: [500, 510], 2: [520, 531]}, name)]
    assert ("charts pairs" in report_of(tmp_path, results).values("div", "class")) == pairs


def test_the_value_of_the_last_point_stands_above_a_falling_line():
    [sweep] = compare(curve({0: [600], 6: [500]})).sweeps
    [panel] = panels(sweep)
    [drawn] = panel.lines
    high, low = drawn.means
    right_third = high.y + (low.y - high.y) * (240 - high.x) / (low.x - high.x)  # 240 of 360 units
    assert high.y < right_third < low.y
    assert drawn.label_y == pytest.approx(right_third - 9, abs=0.1)


def test_the_same_results_give_the_same_bytes(tmp_path):
    results = curve({0: [700, 710], 3: [708, 715], 6: [718, 729]})
    report_of(tmp_path, results)
    first = (tmp_path / "report.html").read_bytes()
    write_report([tmp_path], tmp_path / "report.html")
    assert (tmp_path / "report.html").read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "run"]


# only text


def hostile_page(folder: Path, texts: tuple[str, ...]) -> Page:
    """Every field that holds text, and every file beside the results, holds each of the texts."""
    results = []
    for number, text in enumerate(texts):
        label = text[:80]
        for seed in (0, 1):
            fields = {"run": text, "set": text, "baseline": label, "sweep": text, "versions": {text: text}}
            results.append(line(label, number, seed, 700 + seed, None, data={text: text}, code=text, **fields))
        results.append(result(run=text, set=text, recipe=f"{number:064x}"))
    append_results(folder / "run" / RESULTS, results)
    (folder / "run" / "model.json").write_text(json.dumps({"class_names": list(texts)}))
    (folder / "run" / "recipe.yaml").write_text(
        json.dumps({"data": {"domains": [{"name": texts[0], "source": texts[1]}]}})
    )
    layers = [{"layer": text, "domain": text, "symmetric_kl": 1.0} for text in texts]
    (folder / "run" / "bn_distances.json").write_text(json.dumps({"layers": layers}))
    return Page(write_report([folder], folder / "report.html"))


def test_j3_no_text_in_any_field_makes_a_new_element_or_attribute(tmp_path):
    (tmp_path / "<b onclick=1>").mkdir()
    page = hostile_page(tmp_path / "<b onclick=1>", PAYLOADS)
    benign = hostile_page(tmp_path / "plain", BENIGN)
    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in benign.elements}
    known = {(tag, name) for tag, found in benign.elements for name in found}
    assert {(tag, name) for tag, found in page.elements for name in found} <= known
    assert not {"script", "iframe", "form", "base", "object"} & {tag for tag, _ in page.elements}
    assert all(re.fullmatch(r"#[a-z0-9-]+", address) for address in page.values("a", "href"))


def test_the_policy_allows_the_one_style_and_nothing_else(tmp_path):
    page = report_of(tmp_path, curve({0: [700, 710], 6: [718, 729]}))
    policy = page.values("meta", "content")[0]
    hashed = re.sub(r"'sha256-[A-Za-z0-9+/=]{44}'", "HASH", policy)
    assert hashed == "default-src 'none'; img-src data:; style-src HASH; base-uri 'none'; form-action 'none'"
    assert not [found for _, found in page.elements if "style" in found]


def test_the_page_can_be_used_without_seeing_it(tmp_path):
    page = report_of(tmp_path, curve({0: [700, 710], 6: [718, 730]}))
    tags = [tag for tag, _ in page.elements]
    assert tags.count("h1") == 1
    for tag, found in page.elements:
        assert tag != "svg" or "aria-label" in found or found.get("aria-hidden") == "true"
        assert tag != "img" or found.get("alt")
    ids = [str(found["id"]) for _, found in page.elements if "id" in found]
    assert len(ids) == len(set(ids))
    assert {address[1:] for address in page.values("a", "href")} <= set(ids)
    assert "Top-1 accuracy in percent on real-test: 0x 70.5, 6x 72.4" in page.values("svg", "aria-label")[0]


def test_text_stands_out_from_its_ground_in_light_and_dark():
    house = STYLE.read_text(encoding="utf-8").split("scheme: dark)")
    own = (PAGES / "report.css").read_text(encoding="utf-8").split("scheme: dark)")
    for scheme in (0, 1):
        colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", house[scheme])[:16])
        [ink] = re.findall(r"--good-ink: (#[0-9a-f]{6})", own[scheme])[:1]
        for ground in ("paper", "card", "well"):
            assert contrast(ink, colours[ground]) >= 4.5


@needs_chromium
def test_a_browser_takes_the_style_and_runs_nothing_in_light_and_dark(tmp_path):
    (tmp_path / "in").mkdir()
    hostile_page(tmp_path / "in", PAYLOADS[:60])
    page = tmp_path / "in" / "report.html"
    papers = re.findall(r"--paper: #([0-9a-f]{6})", page.read_text(encoding="utf-8"))
    for paper, scheme in zip(papers, ("1", "0"), strict=True):
        shot = tmp_path / f"{scheme}.png"
        flags = (f"--screenshot={shot}", f"--blink-settings=preferredColorScheme={scheme}", "--window-size=390,900")
        chromium(tmp_path, page, *flags)
        assert pixel(shot, 3, 890) == tuple(bytes.fromhex(paper))
    rendered = tmp_path / "rendered.html"
    rendered.write_text(chromium(tmp_path, page, "--dump-dom"), encoding="utf-8")
    assert Page(rendered).shape() == Page(page).shape()


# Markdown


def test_j8_cells_of_a_table_are_neither_markup_nor_formulas():
    table = markdown_table(["a", "b"], [(text, "1") for text in PAYLOADS])
    lines = table.splitlines()
    assert len(lines) == len(PAYLOADS) + 2
    for row in lines:
        bare = re.sub(r"\\.", "", row)
        assert bare.count("|") == 3, row
        assert not re.search(r"[<>`\[\]]", bare), row
        assert not re.match(r"\| [=+\-@](?!--)", row) or row == "| --- | --- |", row


def test_the_markdown_table_has_means_spreads_and_paired_differences():
    table = results_table(compare(curve({0: [700, 710, 705], 6: [718, 731, 724]})))
    assert table.splitlines()[2:] == [
        "| 0x \\(baseline\\) | 3 | 70.5 ± 0.5 | 410 |",
        "| 6x | 3 | 72.4 ± 0.7; +1.9 \\[1.6, 2.3\\] p 0.002 | 410 |",
    ]


def test_the_markdown_table_stands_alone_and_what_to_know_first_is_said_beside_it(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / RESULTS).write_bytes(b'{"run":\n')
    append_results(tmp_path / "run" / RESULTS, curve({0: [700, 710, 705], 6: [718, 731]}))
    said = CliRunner().invoke(sixfold.command_line(), ["report", str(tmp_path), "--markdown"])
    assert said.exit_code == 0, said.output
    assert "results.jsonl:1: found a line that is not JSON" in said.stderr
    assert "scale, 6x: found no result for the seeds [2]; run the sweep again" in said.stderr
    assert said.stdout.startswith("| Accuracy against scale |")
    assert "found" not in said.stdout


def test_a_difference_has_its_sign_and_no_negative_zero():
    assert [points(value) for value in (0.012, -0.012, 0.0, -0.0001, 0.0004)] == ["+1.2", "−1.2", "0.0", "0.0", "0.0"]

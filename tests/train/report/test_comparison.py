"""Comparisons: over seeds and pictures where both are known, and corrected for how many there are."""

import json

import numpy as np
import pytest

from tests.shards.views.test_gallery import Page
from tests.support.small_data_set import write_data_set
from tests.train.report.test_report import N, curve, line, text_of
from train.evaluate.results import RESULTS, GridPlace, Result, append_results, packed
from train.report.comparison import compare, interval_of
from train.report.fixed import held_fixed
from train.report.report import write_report
from train.report.words import method, verdicts


def with_pictures(results: list[Result], seed: int = 0, digest: str = "aa" * 32) -> list[Result]:
    """The same lines with bits: which pictures were right, drawn for each."""
    rng = np.random.default_rng(seed)
    found = []
    for one in results:
        bits = rng.permutation(np.arange(N) < round(one.top1 * N))
        found.append(one.model_copy(update={"right_pictures": packed(bits), "data": {one.set: digest}}))
    return found


def test_with_the_pictures_a_gain_must_hold_on_other_pictures_too():
    """About +1.2 points with each seed, but by other pictures each time: 1,000 pictures cannot show that."""
    results = curve({0: [700, 710, 705, 695, 702], 6: [711, 722, 717, 705, 714]})
    [seeds], [both] = (verdicts(compare(one).sweeps[0]) for one in (results, with_pictures(results)))
    assert (seeds.tone, both.tone) == ("good", "open")
    assert seeds.difference is not None
    assert both.difference is not None
    assert both.difference.value == pytest.approx(seeds.difference.value)
    assert (seeds.difference.is_over_pictures, both.difference.is_over_pictures) == (False, True)
    assert "do not keep which pictures were right" in method(compare(results))
    assert "hold for other seeds and other test pictures (paired by both)" in method(compare(with_pictures(results)))


def test_a_line_without_pictures_or_of_an_unknown_order_makes_the_interval_one_over_seeds():
    results = curve({0: [700, 710, 705], 6: [718, 729, 724]})
    older = with_pictures(results)
    older[4] = older[4].model_copy(update={"right_pictures": None})
    for some in (older, with_pictures(results, digest="")):
        [verdict] = verdicts(compare(some).sweeps[0])
        assert verdict.difference is not None
        assert not verdict.difference.is_over_pictures
    mixed = [*with_pictures(results), *(one.model_copy(update={"set": "other"}) for one in results)]
    assert "in 1 of 2 comparisons; in the others for other seeds only" in method(compare(mixed))


def test_a_difference_of_many_is_shown_only_if_holms_correction_leaves_it():
    """p of about 0.02 is shown alone, and not among ten comparisons that show nothing."""
    alone = curve({0: [700, 710, 705], 1: [712, 718, 713]})
    nothing = [one for name in "abcdefghi" for one in curve({0: [700, 710, 705], 1: [701, 709, 705]}, name)]
    [verdict] = verdicts(compare(alone).sweeps[0])
    assert verdict.tone == "good"
    found = {one.set: one for one in verdicts(compare([*alone, *nothing]).sweeps[0])}
    assert found["real-test"].tone == "open"
    assert found["real-test"].difference is not None
    assert found["real-test"].difference.p == verdict.difference.p  # type: ignore[union-attr]
    assert found["real-test"].difference.adjusted_p == pytest.approx(10 * found["real-test"].difference.p)
    assert "corrected for all 10 comparisons of this sweep (Holm)" in method(compare([*alone, *nothing]))


def test_what_else_is_in_a_report_changes_no_verdict_of_a_sweep():
    alone = curve({0: [700, 710, 705], 1: [712, 718, 713]})
    other = [one for name in "abcdefghi" for one in curve({0: [700, 710, 705], 1: [701, 709, 705]}, name)]
    assert all(one.sweep is not None for one in other)
    elsewhere = [one.model_copy(update={"sweep": one.sweep.model_copy(update={"name": "gap"})}) for one in other]  # type: ignore[union-attr]
    [verdict] = verdicts(compare(alone).sweeps[0])
    both = compare([*alone, *elsewhere])
    assert [str(sweep) for sweep in both.sweeps if sweep.name == "scale"] == [str(compare(alone).sweeps[0])]
    assert verdict.tone == "good"
    assert "corrected for all comparisons of its sweep (1 to 9) (Holm)" in method(both)


def test_views_of_a_thing_are_one_observation_in_the_interval():
    """Four views of each thing that are right or wrong together say as much as one view."""
    once = with_pictures(curve({0: [700, 710, 705], 6: [729, 738, 731]}))

    def shown(one: Result, times: int) -> Result:
        bits = one.right_bits
        assert bits is not None
        changes = {
            "n": times * one.n,
            "right_pictures": packed(np.tile(bits, times)),
            "per_class": {k: (times * a, times * b) for k, (a, b) in one.per_class.items()},
            "views": times,
        }
        return Result.model_validate({**one.model_dump(), **changes})

    def told(results: list[Result]) -> tuple[float | None, ...]:
        """Ends and p of the difference, ends of one accuracy."""
        [sweep] = compare(results).sweeps
        [verdict] = verdicts(sweep)
        assert verdict.difference is not None
        single = interval_of(results[0])
        return (verdict.difference.low, verdict.difference.high, verdict.difference.p, single.low, single.high)

    four = [shown(one, 4) for one in once]
    assert told(four) == pytest.approx(told(once))
    blind = told([one.model_copy(update={"views": 1}) for one in four])
    assert blind[0] > told(four)[0], "as if other pictures were known that nobody took"  # type: ignore[operator]
    assert "they hold for other things" in method(compare(four))
    assert "other things" not in method(compare(once))
    mixed = [one.model_copy(update={"views": 1}) if one.seed == 1 else one for one in four]
    assert told(mixed) == pytest.approx(told(once)), "an older line about the same pictures says 1, and knows no better"


def test_seeds_of_a_point_on_different_data_are_named():
    results = [one.model_copy(update={"data": {**one.data, "synthetic": "aa" * 32}}) for one in curve({0: [700] * 3})]
    assert compare(results).problems == ()
    results[1] = results[1].model_copy(update={"data": {**results[1].data, "synthetic": "bb" * 32}})
    [said] = compare(results).problems
    assert "0x: found synthetic of 2 different digests (aaaaaaaaaaaa, bbbbbbbbbbbb) among seeds that share" in said
    place = results[1].sweep
    assert place is not None
    own = [one.model_copy(update={"sweep": place.model_copy(update={"by_seed": {"seed": 1}})}) for one in results]
    assert compare(own).problems == ()


def page_with_recipes(folder, steps: dict[str, object], source: str) -> str:
    """The text of a page on two points of one seed each, which have 480 validation pictures."""
    for number, label in enumerate(("0x", "6x")):
        name = f"{label}-s0"
        fields = {"step": 10, "images_seen": 320}
        tests = line(label, number, 0, 700 + 20 * number, 6.0 * number, **fields)
        chosen = line(label, number, 0, 400, 6.0 * number, set="val", role="validation", n=480, **fields)
        append_results(folder / name / RESULTS, [chosen, tests])
        domains = [{"name": "real", "source": source}, {"name": "synthetic", "source": "nowhere"}][: 1 + number]
        recipe = {"schedule": {"steps": steps[label]}, "data": {"domains": domains}}
        (folder / name / "recipe.yaml").write_text(json.dumps(recipe))
    return text_of(Page(write_report([folder], folder / "report.html")))


def test_the_page_says_what_is_held_fixed_and_counts_all_labelled_pictures(tmp_path):
    write_data_set(tmp_path / "real", num_shards=2, num_slots=10)
    text = page_with_recipes(tmp_path / "same", {"0x": 900, "6x": 900}, str(tmp_path / "real"))
    assert "Held fixed: 900 steps at all points; 32 images a step at all points. No setting was tuned" in text
    assert "Labelled real pictures of a run: 20 to train + 480 to choose the checkpoint." in text
    text = page_with_recipes(tmp_path / "other", {"0x": 300, "6x": 900}, "s3://somewhere/else")
    assert "300 to 900 steps, not the same at all points" in text
    assert "those to train on cannot be counted here + 480 to choose the checkpoint." in text
    text = page_with_recipes(tmp_path / "odd", {"0x": "many", "6x": 10**30}, str(tmp_path / "gone"))
    assert "Held fixed: steps: not known; 32 images a step at all points." in text


def test_steps_and_labelled_pictures_of_all_stages_are_held_fixed():
    """A stage has its own schedule, or the recipe's; pictures that two stages read are labelled once."""
    results = curve({0: [700, 710, 705], 6: [718, 729, 724]})
    domain = {"name": "real", "source": "a"}
    stages = [{"name": "one", "schedule": {"steps": 400}, "data": {"domains": [domain]}}, {"name": "two", "data": {}}]
    more = {"name": "three", "schedule": {"steps": 50}, "data": {"domains": [{"name": "real", "source": "b"}]}}
    for before, words, labels in (
        (stages, "1,000 steps at all points", "20 to train"),
        ([*stages, more], "1,050 steps at all points", "40 to train"),
        ([None], "steps: not known", "20 to train"),
        ("none", "steps: not known", "20 to train"),
    ):
        recipe = {"schedule": {"steps": 300}, "data": {"domains": [domain]}, "before": before}
        fixed = held_fixed(compare(results).sweeps[0], results, {one.run: [recipe] for one in results}, lambda *_: 20)
        assert words in fixed.work
        assert labels in fixed.labels


def test_the_page_says_how_points_were_tuned():
    grid = {"optim.lr": (0.001, 0.003), "data.augment.policy": ("none", "trivial")}
    place = GridPlace(settings={"optim.lr": 0.003, "data.augment.policy": "none"}, grid=grid, seeds=2)

    def tuned(one: Result) -> Result:
        assert one.sweep is not None
        return one.model_copy(update={"sweep": one.sweep.model_copy(update={"tuned": place})})

    plain = curve({0: [700, 710, 705], 6: [718, 729, 724]})
    told = [
        held_fixed(compare(results).sweeps[0], results, {}, lambda *_: None).tuning
        for results in (plain, [tuned(one) for one in plain], [*map(tuned, plain[:3]), *plain[3:]])
    ]
    assert told[0].startswith("No setting was tuned")
    assert told[1] == (
        "Every point, the baseline included, has the best of 4 settings of data.augment.policy, optim.lr on validation "
        "in the mean of the first 2 seeds."
    )
    assert told[2].startswith("Of 3 of 6 runs the best of 4 settings")


def test_the_page_says_what_a_seed_changes():
    plain = curve({0: [700, 710, 705], 6: [718, 729, 724]})
    assert all(one.sweep is not None for one in plain)
    drawn = [
        one.model_copy(update={"sweep": one.sweep.model_copy(update={"by_seed": {"data.domains.0.subset": "a"}})})
        for one in plain
        if one.sweep is not None
    ]
    told = [held_fixed(compare(one).sweeps[0], one, {}, lambda *_: None).seeds for one in (plain, drawn)]
    assert told == [
        "A seed changes the training alone: the images are the same for all seeds.",
        "Each seed has its own data.domains.0.subset, so intervals over seeds hold for these too.",
    ]

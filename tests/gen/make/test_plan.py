"""The plan: which image is made in which shard."""

import os
import subprocess
import sys
from collections import Counter
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen.make.plan import Plan, estimate, parse_scale, sample_seed, sample_uid
from gen.make.scale import scale_name
from shards.disk.home import home

REPO = home()
IMAGENET_TRAIN = 1_281_167

equal_counts = st.tuples(st.integers(1, 60), st.integers(1, 40)).map(lambda both: [both[0]] * both[1])
any_counts = st.lists(st.integers(1, 60), min_size=1, max_size=40)
long_tails = st.lists(st.sampled_from([1, 1, 1, 2, 3, 7, 50, 400, 2000]), min_size=1, max_size=30)
counts_lists = st.one_of(equal_counts, any_counts, long_tails)


def plan_of(counts: list[int], prompts: int = 3, seed: int = 0, samples_per_shard: int = 7, max_draws: int = 1) -> Plan:
    ids = range(len(counts))
    return Plan(dict(zip(ids, counts, strict=True)), dict.fromkeys(ids, prompts), seed, samples_per_shard, max_draws)


def fold_order(plan: Plan, fold: int = 0) -> list[int]:
    first = fold * plan.units_per_fold
    return [sample.class_id for shard in range(first, first + plan.units_per_fold) for sample in plan.unit(shard)]


def worst_deviation(order: list[int], counts: list[int]) -> float:
    """How far any class ever is from its share of a prefix, by counting."""
    worst = 0.0
    for class_id, count in enumerate(counts):
        seen = np.concatenate([[0], np.cumsum(np.array(order) == class_id)])
        worst = max(worst, float(np.abs(seen - np.arange(len(order) + 1) * count / len(order)).max()))
    return worst


# what is in a fold


@given(counts_lists, st.integers(1, 5), st.integers(-5, 5), st.integers(1, 50), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_the_units_together_are_exactly_the_planned_samples(counts, prompts, seed, samples_per_shard, folds):
    plan = plan_of(counts, prompts, seed, samples_per_shard)
    made = Counter(
        (sample.class_id, sample.prompt_id, sample.replicate)
        for shard in plan.units(Fraction(folds))
        for sample in plan.unit(shard)
    )
    wanted = Counter(
        (class_id, number % prompts, number // prompts)
        for class_id, count in enumerate(counts)
        for number in range(folds * count)
    )
    assert made == wanted
    assert set(made.values()) == {1}


@given(counts_lists, st.integers(1, 30), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_every_fold_holds_exactly_the_real_count_of_every_class(counts, samples_per_shard, fold):
    order = fold_order(plan_of(counts, samples_per_shard=samples_per_shard), fold)
    assert Counter(order) == dict(enumerate(counts))


@given(counts_lists, st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_no_unit_straddles_two_folds_and_only_the_last_of_a_fold_is_smaller(counts, samples_per_shard):
    plan = plan_of(counts, samples_per_shard=samples_per_shard)
    for shard in plan.units(Fraction(3)):
        unit = plan.unit(shard)
        last_of_fold = (shard + 1) % plan.units_per_fold == 0
        assert unit.shard == shard
        assert unit.fold == shard // plan.units_per_fold
        assert len(unit) == plan.unit_size(shard) == len(unit.samples)
        assert [sample.slot for sample in unit] == list(range(len(unit)))
        assert 1 <= len(unit) <= samples_per_shard
        assert len(unit) == samples_per_shard or last_of_fold


@pytest.mark.parametrize(("num_samples", "num_jobs"), [(16, 8), (1000, 7), (16, 5), (1, 1), (999, 10)])
def test_work_is_split_evenly_and_completely(num_samples, num_jobs):
    """Blocks of N // n + 1, with the rest for the last job, leave jobs without work; shards differ in the last only."""
    plan = plan_of([num_samples], samples_per_shard=-(-num_samples // num_jobs))
    sizes = [len(plan.unit(shard)) for shard in plan.units(Fraction(1))]
    assert sum(sizes) == num_samples
    assert min(sizes) >= 1
    assert set(sizes[:-1]) <= {plan.samples_per_shard}


# the order within a fold


@given(counts_lists, st.integers(-3, 3))
@settings(max_examples=150, deadline=None)
def test_in_any_prefix_no_class_is_further_from_its_share_than_the_plan_says(counts, seed):
    plan = plan_of(counts, seed=seed, samples_per_shard=1000)
    worst = worst_deviation(fold_order(plan), counts)
    assert worst <= plan.max_deviation + 1e-9
    assert plan.max_deviation < 2


@given(equal_counts, st.integers(-3, 3))
@settings(max_examples=60, deadline=None)
def test_with_equal_counts_any_two_classes_of_a_prefix_differ_by_at_most_one(counts, seed):
    plan = plan_of(counts, seed=seed, samples_per_shard=1000)
    assert plan.max_deviation < 1
    seen = np.zeros(len(counts), int)
    for class_id in fold_order(plan):
        seen[class_id] += 1
        assert seen.max() - seen.min() <= 1


@pytest.mark.parametrize(
    "counts",
    [
        [1],
        [1, 1_000],
        [5_000] + [1] * 200,
        [2**i for i in range(12)],
        [3**i for i in range(8)],
        [int(1300 / rank) + 1 for rank in range(1, 100)],
        [1000, 999, 500, 499, 250, 1, 1],
    ],
    ids=["one class", "two", "giant", "powers of 2", "powers of 3", "harmonic", "halves"],
)
def test_long_tails_keep_the_balance_law(counts):
    plan = plan_of(counts, samples_per_shard=1000)
    worst = worst_deviation(fold_order(plan), counts)
    assert worst <= plan.max_deviation + 1e-9 < 2


def slow_order(counts: list[tuple[int, int]]) -> list[int]:
    """The order by its definition: merge halves so that round(r * a / s) of the first r come from the left."""
    if len(counts) == 1:
        return [counts[0][1]] * counts[0][0]
    size = sum(count for count, _ in counts)
    split = min(range(1, len(counts)), key=lambda at: (abs(2 * sum(count for count, _ in counts[:at]) - size), at))
    left, right = slow_order(counts[:split]), slow_order(counts[split:])
    merged, taken = [], 0
    for rank in range(1, size + 1):
        want = int(Fraction(rank * len(left), size) + Fraction(1, 2))
        merged.append(left[taken] if want > taken else right[rank - 1 - taken])
        taken = want
    return merged


@given(st.lists(st.integers(1, 80), min_size=1, max_size=20, unique=True))
@settings(max_examples=50, deadline=None)
def test_the_order_equals_its_definition_by_merging(counts):
    """Distinct counts, so that the seed has no say in the order of the leaves."""
    expected = slow_order(sorted(((count, class_id) for class_id, count in enumerate(counts)), reverse=True))
    assert fold_order(plan_of(counts, samples_per_shard=11)) == expected


@given(counts_lists, st.integers(1, 7), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_in_any_prefix_the_prompts_of_a_class_are_used_within_one_of_equally_often(counts, prompts, folds):
    plan = plan_of(counts, prompts)
    used = np.zeros((len(counts), prompts), int)
    for shard in plan.units(Fraction(folds)):
        for sample in plan.unit(shard):
            assert sample.replicate == used[sample.class_id, sample.prompt_id]
            used[sample.class_id, sample.prompt_id] += 1
            assert used[sample.class_id].max() - used[sample.class_id].min() <= 1


def test_class_ids_may_have_gaps_and_classes_their_own_number_of_prompts():
    plan = Plan({3: 5, 7: 2, 900: 1}, {900: 4, 3: 2, 7: 1}, 11, 4)
    made = [(sample.class_id, sample.prompt_id, sample.replicate) for shard in range(4) for sample in plan.unit(shard)]
    assert sorted(made) == sorted(
        [(3, n % 2, n // 2) for n in range(10)] + [(7, 0, n) for n in range(4)] + [(900, n, 0) for n in range(2)]
    )


def test_the_order_of_the_mappings_changes_nothing():
    forward, backward = {0: 3, 1: 5, 2: 5}, {2: 5, 1: 5, 0: 3}
    for shard in range(5):
        assert Plan(forward, forward, 1, 3).unit(shard).samples == Plan(backward, backward, 1, 3).unit(shard).samples


# scales


@given(counts_lists, st.integers(1, 30), st.fractions(Fraction(1, 10), 4), st.fractions(Fraction(1, 10), 4))
@settings(max_examples=80, deadline=None)
def test_a_smaller_scale_is_a_prefix_of_a_larger_one(counts, samples_per_shard, one, other):
    plan = plan_of(counts, samples_per_shard=samples_per_shard)
    small, large = sorted([one, other])
    if small * plan.fold_size < 1:
        small = large = Fraction(1)
    assert plan.units(small) == plan.units(large)[: plan.num_units(small)]
    slots = [{(shard, slot) for shard, n in plan.subset(scale) for slot in range(n)} for scale in (small, large)]
    assert slots[0] <= slots[1]
    assert [len(each) for each in slots] == [plan.num_samples(small), plan.num_samples(large)]


@given(counts_lists, st.integers(1, 30), st.fractions(Fraction(1, 10), 3))
@settings(max_examples=60, deadline=None)
def test_a_fractional_scale_is_exact_and_class_balanced(counts, samples_per_shard, scale):
    plan = plan_of(counts, samples_per_shard=samples_per_shard)
    if scale * plan.fold_size < 1:
        scale += 1
    total = int(scale * plan.fold_size)
    chosen = Counter(
        sample.class_id for shard, slots in plan.subset(scale) for sample in plan.unit(shard).samples[:slots]
    )
    assert sum(chosen.values()) == plan.num_samples(scale) == total
    for class_id, count in enumerate(counts):
        assert abs(chosen[class_id] - Fraction(total * count, plan.fold_size)) <= plan.max_deviation + 1e-9


def test_imagenet_six_times_is_7687002_images_in_7692_shards():
    plan = plan_of([IMAGENET_TRAIN * (i + 1) // 1000 - IMAGENET_TRAIN * i // 1000 for i in range(1000)], 80, 0, 1000)
    assert [plan.num_samples(Fraction(scale)) for scale in range(1, 7)] == [
        1_281_167,
        2_562_334,
        3_843_501,
        5_124_668,
        6_405_835,
        7_687_002,
    ]
    assert plan.num_units(Fraction(6)) == 7692
    cost = estimate(plan, Fraction(6), bytes_per_image=30_000, seconds_per_image=0.065, workers=64)
    assert (cost.shards, cost.images, cost.images_made) == (7692, 7_687_002, 7_687_002)
    assert cost.bytes == 7_687_002 * 30_000
    assert cost.hours == pytest.approx(7_687_002 * 0.065 / 64 / 3600)


def test_in_any_prefix_of_imagenet_every_class_is_within_one_of_its_share():
    counts = np.array([IMAGENET_TRAIN * (i + 1) // 1000 - IMAGENET_TRAIN * i // 1000 for i in range(1000)])
    plan = plan_of(counts.tolist(), 1, 0, 1000)
    units = [plan.unit(shard) for shard in plan.units(Fraction(1))]
    ranks, numbers = np.arange(IMAGENET_TRAIN), np.concatenate([unit.replicates for unit in units])
    share = counts[np.concatenate([unit.class_ids for unit in units])] / IMAGENET_TRAIN
    # a class is furthest behind just before one of its samples, furthest ahead just after it
    assert np.abs(numbers - ranks * share).max() < 1
    assert np.abs(numbers + 1 - (ranks + 1) * share).max() < 1


def test_an_estimate_counts_the_last_shard_whole():
    cost = estimate(plan_of([10, 10], samples_per_shard=8), Fraction(1, 2), 100, 3.6, 2)
    assert (cost.shards, cost.images, cost.images_made, cost.bytes) == (2, 10, 16, 1600)
    assert cost.hours == pytest.approx(16 * 3.6 / 2 / 3600)
    assert estimate(plan_of([10, 10], samples_per_shard=8), Fraction(3, 2), 100, 1, 1).images_made == 36


@pytest.mark.parametrize(
    ("text", "scale"), [("6x", 6), ("6", 6), ("0.5x", Fraction(1, 2)), (" 1.25X ", Fraction(5, 4)), ("1000x", 1000)]
)
def test_a_scale_is_read_exactly(text, scale):
    assert parse_scale(text) == scale


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "0", "0x", "0.0x", "-1x", "-0.5", "nan", "inf", "infx", "1e3x", "6xx", "six", "6 x", "1/2x", "0x6"),
        *("1001x", "9" * 40, "1.", ".5x", "1_0x", "٦x", "6x\n7x", "6;rm"),
    ],
)
def test_a_bad_scale_is_refused_in_one_line_that_shows_it(text):
    with pytest.raises(ValueError) as caught:
        parse_scale(text)
    message = str(caught.value)
    assert message.startswith("scale: found ")
    assert "expected" in message
    assert "\n" not in message


def test_a_scale_below_one_image_is_refused():
    with pytest.raises(ValueError, match="less than one image of 10"):
        plan_of([10]).num_samples(Fraction(1, 11))


# seeds and names


def test_e6_seeds_and_order_are_the_same_in_every_process():
    """Neither hash randomisation, nor time, nor process, nor the order of asking enters."""
    program = (
        "from gen.make.plan import Plan, sample_seed, sample_uid\n"
        "plan = Plan({3: 5, 7: 5, 9: 5}, {3: 2, 7: 1, 9: 4}, 11, 4)\n"
        "for k in range(8):\n"
        "    for s in plan.unit(k):\n"
        "        who = (11, s.class_id, s.prompt_id, s.replicate, 0)\n"
        "        print(k, s, sample_seed(*who), sample_uid(*who))\n"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=REPO,
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "TZ": zone},
            capture_output=True,
            check=True,
            timeout=200,
        ).stdout
        for hash_seed, zone in [("0", "UTC"), ("12345", "Asia/Tokyo")]
    }
    assert len(outputs) == 1
    plan = Plan({3: 5, 7: 5, 9: 5}, {3: 2, 7: 1, 9: 4}, 11, 4)
    asked_backwards = {shard: plan.unit(shard).samples for shard in reversed(range(8))}
    lines = [f"{shard} {sample}" for shard in range(8) for sample in asked_backwards[shard]]
    assert [line.rsplit(" ", 2)[0] for line in outputs.pop().decode().splitlines()] == lines


def test_e8_seeds_names_and_order_never_change_between_versions():
    """A change here would silently change every image of a run that is continued."""
    assert sample_seed(0, 0, 0, 0, 0) == 6437155742928618272
    assert sample_seed(7, 123, 45, 6, 1) == 4477141029729364961
    assert sample_uid(0, 0, 0, 0, 0) == "a7c167fe65ef1be897f56fbe30368e7a"
    assert sample_uid(7, 123, 45, 6, 1) == "7f8e628d65ed6b21d33398db068faa9e"
    assert fold_order(plan_of([3, 1, 5, 3], seed=5)) == [3, 2, 0, 2, 3, 2, 0, 1, 2, 0, 2, 3]


def test_no_two_draws_of_a_run_share_a_seed_or_a_name():
    """One seed for all jobs gave the k-th batch of every job the same noise."""
    plan = plan_of([40] * 10, prompts=7, samples_per_shard=50)
    draws = [
        (plan.seed, sample.class_id, sample.prompt_id, sample.replicate, draw)
        for shard in plan.units(Fraction(6))
        for sample in plan.unit(shard)
        for draw in range(4)
    ]
    seeds = [sample_seed(*draw) for draw in draws]
    assert len(set(seeds)) == len(draws) == 9600
    assert len({sample_uid(*draw) for draw in draws}) == len(draws)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62  # all 63 bits are in use


@given(st.lists(st.integers(0, 2**31 - 1), min_size=4, max_size=4), st.integers(-(2**63), 2**63 - 1))
@settings(max_examples=50, deadline=None)
def test_each_part_of_a_samples_name_enters_its_seed(parts, run_seed):
    who = [run_seed, *parts]
    for place in range(5):
        changed = who.copy()
        changed[place] ^= 1
        assert sample_seed(*changed) != sample_seed(*who)
        assert sample_uid(*changed) != sample_uid(*who)


# limits


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Plan({}, {}, 0, 10), "no classes"),
        (lambda: Plan({0: 0}, {0: 1}, 0, 10), "count 0 for class 0"),
        (lambda: Plan({0: 5, 1: 5}, {0: 1}, 0, 10), "no prompts for class 1"),
        (lambda: Plan({-1: 5}, {-1: 1}, 0, 10), "class id -1"),
        (lambda: Plan({0: 5}, {0: 1}, 2**63, 10), "64-bit"),
        (lambda: Plan({0: 5}, {0: 1}, 0, 0), "samples_per_shard 0"),
        (lambda: Plan({0: 5}, {0: 1}, 0, 1000, 11), "set samples_per_shard to 909 or less"),
        (lambda: Plan({0: 10**9, 1: 1}, {0: 1, 1: 1}, 0, 10), "split the classes"),
    ],
)
def test_a_plan_that_cannot_be_laid_out_is_refused_with_what_to_change(build, words):
    with pytest.raises(ValueError, match=words) as caught:
        build()
    assert "\n" not in str(caught.value)


def test_more_shards_than_a_data_set_holds_are_refused():
    plan = plan_of([10_000], samples_per_shard=1, max_draws=4)
    assert plan.num_units(Fraction(10)) == 100_000
    with pytest.raises(ValueError, match=r"100001 shards.*set samples_per_shard above 1 \(at most 2500"):
        plan.num_units(Fraction(100_001, 10_000))


def test_c7_the_whole_plan_of_imagenet_six_times_takes_seconds_and_little_memory():
    """Target: 7,687,002 samples under 10 s and 500 MB on one core."""
    program = (
        "import re, time\n"
        "from fractions import Fraction\n"
        "from gen.make.plan import Plan\n"
        "total = 1281167\n"
        "counts = {i: total * (i + 1) // 1000 - total * i // 1000 for i in range(1000)}\n"
        "start = time.process_time()\n"
        "plan = Plan(counts, dict.fromkeys(counts, 80), 0, 1000)\n"
        "made = sum(len(plan.unit(k)) for k in plan.units(Fraction(6)))\n"
        # not ru_maxrss, which counts in the memory of the process that started this one
        "peak = re.search(r'VmHWM:\\s+([0-9]+) kB', open('/proc/self/status').read())[1]\n"
        "print(made, time.process_time() - start, peak)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=REPO, capture_output=True, check=True, timeout=120)
    made, seconds, peak_kib = run.stdout.split()
    assert int(made) == 7_687_002
    assert float(seconds) < 10
    assert int(peak_kib) * 1024 < 500e6


@settings(deadline=None)
@given(st.lists(st.decimals(min_value=0, max_value=999, places=9), min_size=2, max_size=2, unique=True))
def test_two_scales_never_share_a_name_and_a_name_is_read_back_exactly(numbers: list[Decimal]) -> None:
    scales = [Fraction(number) for number in numbers if number]
    names = [scale_name(scale) for scale in scales]
    assert len(set(names)) == len(scales)
    assert [parse_scale(name) for name in names] == scales


@pytest.mark.parametrize(
    ("text", "name"),
    [("6", "6x"), ("0.5", "0.5x"), ("6.0", "6x"), ("33.33333", "33.33333x"), ("33.3333", "33.3333x"), ("1e-05", None)],
)
def test_a_scale_has_the_name_that_people_give_it(text: str, name: str | None) -> None:
    assert scale_name(Fraction(text)) == (name or "0.00001x")


def test_a_scale_that_no_decimal_number_is_has_no_name() -> None:
    with pytest.raises(ValueError, match="scale: found 1/3, expected at most 18 digits behind the point"):
        scale_name(Fraction(1, 3))

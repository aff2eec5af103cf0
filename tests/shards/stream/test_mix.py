"""Mixup and cutmix stay inside a domain and a group, do not depend on the ranks, and keep labels and pixels in step."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.stream.mix import MixPlan, MixSpec, apply_mix, plan_mix

BOTH = MixSpec(mixup_alpha=0.2, cutmix_alpha=1.0)


@given(
    quotas=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    groups=st.integers(1, 6),
    per=st.sampled_from(["group", "domain", "sample"]),
    seed=st.integers(0, 2**63),
    step=st.integers(0, 10**9),
)
def test_partners_are_a_permutation_inside_each_domain_of_each_group(
    quotas: list[int], groups: int, per: str, seed: int, step: int
) -> None:
    spec = MixSpec(mixup_alpha=0.2, cutmix_alpha=1.0, per=per, chance=0.9)
    plan = plan_mix(spec, quotas, 32, seed, step, 0, groups)
    assert len(plan.partner) == len(plan.share) == len(plan.box) == groups * sum(quotas)
    first = 0
    for _ in range(groups):
        for quota in quotas:
            assert sorted(plan.partner[first : first + quota]) == list(range(first, first + quota))
            first += quota
    top, left, bottom, right = plan.box.T
    assert (top <= bottom).all()
    assert (left <= right).all()
    assert plan.box.min() >= 0
    assert plan.box.max() <= 32
    is_cut = bottom > top
    area = ((bottom - top) * (right - left))[is_cut]
    assert np.allclose(plan.share[is_cut], 1 - area / 32**2)
    assert ((plan.share >= 0) & (plan.share <= 1)).all()


@pytest.mark.parametrize("per", ["group", "domain", "sample"])
def test_the_plan_of_a_group_does_not_depend_on_which_rank_has_it(per: str) -> None:
    spec = BOTH.model_copy(update={"per": per})
    whole = plan_mix(spec, [3, 2], 24, 11, 4, 0, 4)
    for rank in range(4):
        part = plan_mix(spec, [3, 2], 24, 11, 4, rank, 1)
        own = slice(rank * 5, rank * 5 + 5)
        assert np.array_equal(part.partner + rank * 5, whole.partner[own])
        assert np.array_equal(part.share, whole.share[own])
        assert np.array_equal(part.box, whole.box[own])


def test_steps_seeds_and_groups_differ() -> None:
    plans = [plan_mix(BOTH, [8], 32, seed, step, group, 1) for seed in (0, 1) for step in (0, 1) for group in (0, 1)]
    assert len({plan.partner.tobytes() for plan in plans}) == 8


def test_mixup_blends_and_cutmix_pastes() -> None:
    images = np.stack([np.full((4, 4, 3), value, np.uint8) for value in (0, 100, 200)])
    plan = MixPlan(
        partner=np.array([1, 2, 0]),
        share=np.array([0.25, 0.75, 1.0], np.float32),
        box=np.array([[0, 0, 0, 0], [0, 1, 2, 3], [0, 0, 0, 0]], np.int32),
    )
    mixed = apply_mix(images, plan)
    assert (mixed[0] == 75).all()
    assert (mixed[1, 0:2, 1:3] == 200).all()
    assert mixed[1].sum() == 3 * (4 * 200 + 12 * 100)
    assert (mixed[2] == 200).all()


def test_shares_follow_their_distribution_and_the_chance() -> None:
    spec = MixSpec(mixup_alpha=1.0, per="sample", chance=0.75)
    share = plan_mix(spec, [10_000], 8, 3, 0, 0, 1).share
    assert abs((share == 1).mean() - 0.25) < 0.02
    assert abs(share[share < 1].mean() - 0.5) < 0.02
    both = plan_mix(BOTH.model_copy(update={"per": "sample", "cutmix_part": 0.25}), [10_000], 32, 3, 0, 0, 1)
    assert abs((both.box[:, 2] > 0).mean() - 0.25) < 0.03, "a few boxes hold no pixel"


def test_each_domain_of_a_group_has_a_chance_and_a_share_of_its_own_if_asked() -> None:
    spec = MixSpec(mixup_alpha=1.0, per="domain", chance=0.2)
    plan = plan_mix(spec, [3, 2], 8, 3, 0, 0, 4000)
    shares = plan.share.reshape(4000, 5)
    one, other = shares[:, 0], shares[:, 3]
    assert (shares[:, :3] == one[:, None]).all()
    assert (shares[:, 3:] == other[:, None]).all()
    for own in (one, other):
        assert abs((own < 1).mean() - 0.2) < 0.03
    assert abs(((one < 1) & (other < 1)).mean() - 0.04) < 0.015, "independent of each other"
    assert (one[(one < 1) & (other < 1)] != other[(one < 1) & (other < 1)]).all()


def test_nothing_is_on_by_default() -> None:
    assert not MixSpec().is_on
    assert (plan_mix(MixSpec(), [4], 8, 0, 0, 0, 2).share == 1).all()

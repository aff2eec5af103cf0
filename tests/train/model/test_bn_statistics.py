"""Running statistics over ranks, against arithmetic in fp64 and against one process that has the whole batch."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.support import warm
from tests.support.bn_ranks import NUM_RANKS, QUOTAS, a_net, batch, part, results
from train.model.aux_bn import AuxBatchNorm, convert, convert_sync
from train.model.bn_statistics import broadcast_buffers, combine, distances, groups_together
from train.model.classifiers import ModelSpec, build

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks left behind; tests/support/bn_ranks.py is their program."""
    folder = tmp_path_factory.mktemp("ranks")
    children = [warm.start(["-m", "tests.support.bn_ranks", str(rank), str(folder)]) for rank in range(NUM_RANKS)]
    try:
        said = [child.communicate(timeout=120)[1] for child in children]
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [0] * NUM_RANKS, said
    return folder


def left(folder: Path, work: str) -> list[dict[str, Tensor]]:
    return [load_file(folder / f"{work}-{rank}.safetensors") for rank in range(NUM_RANKS)]


def stems(tensors: dict[str, Tensor]) -> list[str]:
    return [name.removesuffix("running_mean") for name in tensors if name.endswith("running_mean")]


def assert_pooled(own: list[dict[str, Tensor]], combined: dict[str, Tensor]) -> None:
    """Mean and variance of a random variable that is each rank's with equal chance."""
    assert len(stems(combined)) == 4  # two layers, main and auxiliary
    for stem in stems(combined):
        means = torch.stack([one[f"{stem}running_mean"] for one in own])
        squares = torch.stack([one[f"{stem}running_var"] + one[f"{stem}running_mean"] ** 2 for one in own])
        expected = squares.mean(0) - means.mean(0) ** 2
        torch.testing.assert_close(combined[f"{stem}running_mean"], means.mean(0), rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(combined[f"{stem}running_var"], expected, rtol=1e-12, atol=1e-12)
        assert (expected > torch.stack([one[f"{stem}running_var"] for one in own]).mean(0)).all()
        assert combined[f"{stem}num_batches_tracked"] == 3


def test_combined_statistics_are_those_of_both_ranks_samples(ranks: Path) -> None:
    own, combined = left(ranks, "own"), left(ranks, "combined")
    assert all(not torch.equal(own[0][f"{stem}running_mean"], own[1][f"{stem}running_mean"]) for stem in stems(own[0]))
    for state in combined:
        assert_pooled(own, state)


def test_all_ranks_hold_the_same_bits_after_combining_and_a_second_time_changes_nothing(ranks: Path) -> None:
    one, other = left(ranks, "combined")
    again = left(ranks, "combined-twice")
    for state in (other, *again):
        assert all(torch.equal(one[name], state[name]) for name in one)


def test_combining_touches_no_parameter(ranks: Path) -> None:
    own, combined = left(ranks, "own"), left(ranks, "combined")
    for name in own[0]:
        if "running" not in name:
            assert torch.equal(own[0][name], combined[0][name])


def test_the_averaged_tensors_are_combined_by_the_same_rule_and_the_model_stays(ranks: Path) -> None:
    for state in left(ranks, "ema-combined"):
        assert_pooled(left(ranks, "ema-own"), state)
    for before, after in zip(left(ranks, "combined"), left(ranks, "after-ema"), strict=True):
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_ranks_that_counted_different_numbers_of_batches_are_told_so_on_every_rank(ranks: Path) -> None:
    for rank in range(NUM_RANKS):
        said = (ranks / f"uneven-{rank}.txt").read_text()
        assert said.startswith("BN statistics: found between 0 and 1 batches counted on different ranks, expected")


def test_every_rank_starts_with_the_buffers_of_the_first(ranks: Path) -> None:
    for state in left(ranks, "broadcast"):
        buffers = [name for name in state if "running" in name or "num_batches" in name]
        assert len(buffers) == 12
        assert all((state[name] == 1).all() for name in buffers)


@pytest.mark.parametrize(("work", "shared"), [("synced", False), ("synced-shared", True)])
def test_statistics_of_two_ranks_equal_one_process_with_the_whole_batch(ranks: Path, work: str, shared: bool) -> None:
    """Three steps of descent: outputs, all gradients, parameters and running statistics, main and auxiliary."""
    alone = results(convert(a_net(), QUOTAS, shared_affine=shared), [batch(step) for step in range(3)], 0, 1)
    both = left(ranks, work)
    for rank, state in enumerate(both):
        for name, tensor in state.items():
            expected = part(alone[name], rank) if name in ("y", "x grad") else alone[name]
            torch.testing.assert_close(tensor, expected, rtol=1e-9, atol=1e-9)
    shared = [name for name in both[0] if name not in ("y", "x grad")]
    assert all(torch.equal(both[0][name], both[1][name]) for name in shared)


def test_under_autocast_statistics_over_ranks_stay_in_fp32(ranks: Path) -> None:
    alone = convert(a_net(), QUOTAS).float()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        y = alone(batch(0).float())
    for rank, state in enumerate(left(ranks, "synced-half")):
        assert state["y"].dtype == y.dtype
        torch.testing.assert_close(state["y"], part(y, rank), rtol=0.03, atol=0.03)  # bf16 keeps 8 bits
        assert state["1.running_var"].dtype == torch.float32
        torch.testing.assert_close(state["1.running_var"], alone[1].running_var, rtol=1e-5, atol=1e-5)


def test_with_statistics_per_group_the_number_of_ranks_does_not_matter(ranks: Path) -> None:
    alone = convert(a_net(), QUOTAS, per_group=True)
    with torch.no_grad():
        outs = [alone(batch(step)) for step in range(3)]
    combine(alone)  # one process: nothing to do
    for rank, state in enumerate(left(ranks, "ghost")):
        torch.testing.assert_close(state.pop("y"), part(outs[0], rank), rtol=1e-13, atol=1e-13)
        for name, tensor in state.items():
            torch.testing.assert_close(tensor, alone.state_dict()[name], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("changes", "together"),
    [
        ({"bn": "rank"}, {(1, 1): 8, (2, 1): 4, (1, 2): 4, (2, 2): 2}),
        ({"bn": "rank", "aux": "none"}, {(1, 1): 8, (2, 1): 4, (1, 2): 4, (2, 2): 2}),
        ({"bn": "world"}, {(1, 1): 8, (2, 1): 8, (1, 2): 4, (2, 2): 4}),
        ({"bn": "group"}, {(1, 1): 1, (2, 1): 1, (1, 2): 1, (2, 2): 1}),
        ({"bn": "rank", "freeze": ["*bn*"]}, {(1, 1): None, (2, 2): None}),
        ({"name": "sandbox_vit", "aux": "none"}, {(1, 1): None, (2, 2): None}),
    ],
)
def test_ranks_and_micro_batches_say_how_many_groups_of_a_step_share_statistics(
    changes: dict[str, object], together: dict[tuple[int, int], int | None]
) -> None:
    spec = ModelSpec.model_validate({"name": "sandbox_resnet", "num_classes": 5, **changes})
    model = build(spec, (4, 4), 0, 32)
    assert {key: groups_together(model, 8, *key) for key in together} == together


def test_one_process_needs_no_group() -> None:
    model = convert(a_net(), QUOTAS)
    model(batch(0))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    combine(model)
    broadcast_buffers(model)
    convert_sync(model).eval()(batch(0))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


# the distance between domains


def layer_with(main: tuple[float, float], aux: tuple[float, float]) -> nn.Module:
    layer = convert(nn.BatchNorm2d(2, eps=0.0), (2, 2))
    assert isinstance(layer, AuxBatchNorm)
    for branch, (mean, var) in zip(layer.branches(), (main, aux), strict=True):
        assert branch.running_mean is not None
        assert branch.running_var is not None
        branch.running_mean.fill_(mean)
        branch.running_var.fill_(var)
    return nn.Sequential(layer)


def symmetric_kl(main: tuple[float, float], aux: tuple[float, float]) -> float:
    one, other = (torch.distributions.Normal(mean, math.sqrt(var)) for mean, var in (main, aux))
    both = torch.distributions.kl_divergence(one, other) + torch.distributions.kl_divergence(other, one)
    return float(both) / 2


@pytest.mark.parametrize(
    ("main", "aux"), [((0, 1), (0, 1)), ((0, 1), (2, 1)), ((1, 4), (1, 1)), ((-1, 0.5), (3, 7)), ((3, 7), (-1, 0.5))]
)
def test_the_distance_is_that_of_normal_distributions(main: tuple[float, float], aux: tuple[float, float]) -> None:
    (row,) = distances(layer_with(main, aux))
    assert (row.layer, row.domain) == ("0", 1)
    assert row.symmetric_kl == pytest.approx(symmetric_kl(main, aux), rel=1e-6, abs=1e-12)
    assert row.standardised_difference == pytest.approx(abs(main[0] - aux[0]) / math.sqrt((main[1] + aux[1]) / 2))
    assert row.log_variance_ratio == pytest.approx(abs(math.log(aux[1] / main[1])))


def test_a_planted_shift_is_seen_in_the_layer_and_domain_it_was_planted_in() -> None:
    model = convert(a_net(), (8, 8, 8))
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(40):
            x = torch.randn(24, 3, 6, 6, generator=draw, dtype=torch.float64)
            x[16:] = x[16:] * 2 + 1
            model(x)
    rows = {(row.layer, row.domain): row for row in distances(model)}
    assert list(rows) == [("1", 1), ("1", 2), ("4", 1), ("4", 2)]
    assert rows["1", 1].symmetric_kl < 0.01 < 0.3 < rows["1", 2].symmetric_kl
    assert rows["1", 2].log_variance_ratio == pytest.approx(math.log(4), abs=0.15)
    assert rows["4", 2].symmetric_kl < 0.01  # the first layer's own statistics took it out

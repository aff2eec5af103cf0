"""Auxiliary batch normalisation: whose samples each statistic sees, and what conversion keeps."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import BatchNormAct2d, FrozenBatchNormAct2d, SplitBatchNorm2d
from torch import Tensor, nn

from train.model.aux_bn import (
    AuxBatchNorm,
    aux_keys,
    aux_layers,
    check_aux,
    convert,
    convert_sync,
    copies,
    export_plain,
    on_branch,
    plain_tensors,
    survey,
)
from train.model.sandbox_resnet import sandbox_resnet

torch.set_num_threads(1)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Small whole numbers in fp64: their sums are exact in any order."""
    return torch.randint(-8, 9, shape, generator=torch.Generator().manual_seed(seed)).double()


def a_layer(channels: int = 4, seed: int = 0) -> nn.BatchNorm2d:
    """A layer of fp64 whose tensors are all different from their defaults."""
    draw = torch.Generator().manual_seed(seed)
    layer = nn.BatchNorm2d(channels, dtype=torch.float64)
    with torch.no_grad():
        for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
            assert tensor is not None
            tensor.copy_(torch.rand(channels, generator=draw) + 0.5)
    return layer


def a_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return sandbox_resnet(num_classes=5)


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def positions(quotas: list[int], num_groups: int, domain: int) -> list[int]:
    """Where a domain's samples lie in a batch, by counting."""
    where = [d for _ in range(num_groups) for d, quota in enumerate(quotas) for _ in range(quota)]
    return [index for index, d in enumerate(where) if d == domain]


# whose samples a layer sees


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 3), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_each_domain_is_normalised_by_a_layer_that_sees_nothing_else(
    quotas: list[int], num_groups: int, seed: int
) -> None:
    layers = [a_layer() for _ in quotas]
    split = convert(a_layer(), quotas)
    x = numbers(num_groups * sum(quotas), 4, 2, 3, seed=seed)
    y = split(x)
    for domain, alone in enumerate(layers):
        mine = positions(quotas, num_groups, domain)
        torch.testing.assert_close(y[mine], alone(x[mine]), rtol=1e-13, atol=1e-13)
        branch = split.branches()[domain]
        torch.testing.assert_close(branch.running_mean, alone.running_mean, rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(branch.running_var, alone.running_var, rtol=1e-13, atol=1e-13)
        assert branch.num_batches_tracked == 1


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(1, 3), st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_gradients_are_those_of_the_separate_layers(quotas: list[int], num_groups: int, seed: int) -> None:
    split = convert(a_layer(), quotas)
    x = numbers(num_groups * sum(quotas), 4, 2, 3, seed=seed).requires_grad_()
    pull = numbers(*x.shape, seed=seed + 1)
    (split(x) * pull).sum().backward()
    assert x.grad is not None
    for domain in range(len(quotas)):
        mine = positions(quotas, num_groups, domain)
        alone, part = a_layer(), x.detach()[mine].requires_grad_()
        (alone(part) * pull[mine]).sum().backward()
        torch.testing.assert_close(x.grad[mine], part.grad, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(split.branches()[domain].weight.grad, alone.weight.grad, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(split.branches()[domain].bias.grad, alone.bias.grad, rtol=1e-11, atol=1e-11)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(1, 3), st.booleans(), st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_with_one_affine_map_domains_differ_in_statistics_alone(
    quotas: list[int], num_groups: int, per_group: bool, seed: int
) -> None:
    """Against arithmetic in fp64: each slice by its own mean and variance, then the scale and shift of all."""
    split = convert(a_layer(), quotas, per_group, shared_affine=True)
    assert [name for name, _ in split.named_parameters()] == ["weight", "bias"]
    x = numbers(num_groups * sum(quotas), 4, 2, 3, seed=seed).requires_grad_()
    pull = numbers(*x.shape, seed=seed + 1)
    y = split(x)
    (y * pull).sum().backward()
    own = a_layer()
    rows = [positions(quotas, num_groups, domain) for domain in range(len(quotas))]
    slices = [mine[g * q : (g + 1) * q] for mine, q in zip(rows, quotas, strict=True) for g in range(num_groups)]
    other = x.detach().clone().requires_grad_()
    whitened = torch.empty_like(other)
    for mine in slices if per_group else rows:
        part = other[mine]
        mean, var = part.mean((0, 2, 3), keepdim=True), part.var((0, 2, 3), correction=0, keepdim=True)
        whitened = whitened.index_put((torch.tensor(mine),), (part - mean) / (var + own.eps).sqrt())
    expected = whitened * own.weight.view(1, -1, 1, 1) + own.bias.view(1, -1, 1, 1)
    (expected * pull).sum().backward()
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(x.grad, other.grad, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(split.weight.grad, own.weight.grad, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(split.bias.grad, own.bias.grad, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shared", [False, True])
def test_a_branch_evaluates_with_its_own_statistics_and_the_main_one_otherwise(shared: bool) -> None:
    model = convert(a_model().double(), (4, 4), shared_affine=shared)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(3):
        x = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        x[4:] = 3 * x[4:] + 2
        model(x).square().mean().backward()
        optimiser.step()
    model.eval()
    plain = a_model().double().eval()
    x = numbers(4, 3, 32, 32)
    state = copies(model)
    own = {name: state.get(_of_branch(name), tensor) for name, tensor in plain_tensors(state).items()}
    assert (own["bn1.weight"] is state["bn1.weight"]) == shared
    with torch.no_grad():
        main = model(x)
        with on_branch(model, 1):
            other = model(x)
        assert torch.equal(model(x), main)
        plain.load_state_dict(plain_tensors(state), strict=True)
        assert torch.equal(main, plain(x))
        plain.load_state_dict(own, strict=True)
        assert torch.equal(other, plain(x))
    assert not torch.equal(main, other)


def _of_branch(name: str) -> str:
    layer, _, tensor = name.rpartition(".")
    return f"{layer}.aux_bn.0.{tensor}"


def test_shuffling_inside_a_domain_changes_no_sample_by_a_bit() -> None:
    x = numbers(16, 4, 2, 2)
    order = [3, 0, 2, 1, 7, 5, 4, 6, 8, 11, 9, 10, 15, 14, 13, 12]  # groups of 4 + 4
    assert torch.equal(convert(a_layer(), (4, 4))(x[order]), convert(a_layer(), (4, 4))(x)[order])


def test_samples_that_move_to_another_domain_change_the_output() -> None:
    x = numbers(8, 4, 2, 2)
    swapped = [4, 1, 2, 3, 0, 5, 6, 7]
    assert not torch.equal(convert(a_layer(), (4, 4))(x[swapped]), convert(a_layer(), (4, 4))(x)[swapped])


def test_statistics_per_group_make_a_sample_independent_of_the_other_groups() -> None:
    x = numbers(4 * 6, 4, 3, 3).float() * 0.37
    whole = convert(a_layer().float(), (4, 2), per_group=True)
    together = whole(x)
    halves = [convert(a_layer().float(), (4, 2), per_group=True) for _ in range(2)]
    apart = [layer(part) for layer, part in zip(halves, x.split(12), strict=True)]
    assert torch.equal(together, torch.cat(apart))
    for domain in range(2):
        branches = [layer.branches()[domain] for layer in halves]
        mean = torch.stack([branch.running_mean for branch in branches]).mean(0)
        var = torch.stack([branch.running_var for branch in branches]).mean(0)
        torch.testing.assert_close(whole.branches()[domain].running_mean, mean, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(whole.branches()[domain].running_var, var, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("per_group", [False, True])
@pytest.mark.parametrize("momentum", [0.3, None])
def test_momentum_is_that_of_the_plain_layer(per_group: bool, momentum: float | None) -> None:
    plain = a_layer()
    plain.momentum = momentum
    split = convert(copy.deepcopy(plain), (4, 4), per_group)
    for step in range(3):
        x = numbers(8, 4, 2, 2, seed=step)
        split(x)
        plain(x[:4])
    torch.testing.assert_close(split.running_mean, plain.running_mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(split.running_var, plain.running_var, rtol=1e-12, atol=1e-12)
    assert split.num_batches_tracked == plain.num_batches_tracked == 3


@pytest.mark.parametrize(
    ("kind", "shape"),
    [(nn.BatchNorm1d, (6, 4)), (nn.BatchNorm1d, (6, 4, 5)), (nn.BatchNorm3d, (6, 4, 2, 2, 3))],
)
def test_layers_over_vectors_sequences_and_volumes_are_split_too(kind: Any, shape: tuple[int, ...]) -> None:
    x = numbers(*shape)
    split, alone = convert(kind(4, dtype=torch.float64), (4, 2)), kind(4, dtype=torch.float64)
    torch.testing.assert_close(split(x)[:4], alone(x[:4]), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(split.running_mean, alone.running_mean, rtol=1e-13, atol=1e-13)


def test_a_layer_without_running_statistics_keeps_none() -> None:
    split = convert(nn.BatchNorm2d(4, track_running_stats=False, dtype=torch.float64), (2, 2))
    x = numbers(4, 4, 2, 2)
    split(x)
    assert all(branch.running_mean is None for branch in split.branches())
    plain = nn.BatchNorm2d(4, track_running_stats=False, dtype=torch.float64)
    assert torch.equal(split.eval()(x), plain.eval()(x))


def test_memory_format_survives_the_split() -> None:
    x = torch.rand(12, 4, 3, 3).to(memory_format=torch.channels_last)
    for per_group in (False, True):
        assert convert(nn.BatchNorm2d(4), (4, 2), per_group)(x).is_contiguous(memory_format=torch.channels_last)


# the planted shift


def after(model: nn.Module, batches: list[Tensor]) -> dict[str, Tensor]:
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # the mean over all batches, nothing of the start
    with torch.no_grad():
        for batch in batches:
            model(batch)
    return export_plain(model)


def test_main_statistics_are_those_of_training_on_real_images_alone_however_far_synthetic_ones_are_off() -> None:
    draw = torch.Generator().manual_seed(0)
    real = [torch.randn(8, 3, 32, 32, generator=draw, dtype=torch.float64) for _ in range(5)]
    shifted = [torch.randn(8, 3, 32, 32, generator=draw, dtype=torch.float64) * 3 + 2 for _ in range(5)]
    mixed = [torch.cat(pair) for pair in zip(real, shifted, strict=True)]
    only_real = after(a_model().double(), real)
    aux = after(convert(a_model().double(), (8, 8)), mixed)
    naive = after(a_model().double(), mixed)
    for name, tensor in only_real.items():
        torch.testing.assert_close(aux[name], tensor, rtol=1e-10, atol=1e-10)
    off_by = (naive["bn1.running_var"] / only_real["bn1.running_var"]).min()
    assert off_by > 4  # planted: half the images have 9 times the variance and another mean


# what conversion keeps


MODELS: dict[str, Callable[[], nn.Module]] = {
    "sandbox_resnet": lambda: sandbox_resnet(5),
    "resnet18": lambda: timm.create_model("resnet18", num_classes=5),
    "efficientnet_b0": lambda: timm.create_model("efficientnet_b0", num_classes=5),
    "resnetv2_50": lambda: timm.create_model("resnetv2_50", num_classes=5),
    "mobilenetv3_small_050": lambda: timm.create_model("mobilenetv3_small_050", num_classes=5),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_converted_model_exports_to_the_plain_one_with_the_same_output(name: str) -> None:
    torch.manual_seed(0)
    model, plain = MODELS[name](), MODELS[name]()
    names = set(model.state_dict())
    draw = torch.Generator().manual_seed(1)
    model = convert(model, (2, 1))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(2):
        model(torch.randn(6, 3, 64, 64, generator=draw)).square().mean().backward()
        optimiser.step()
    exported = export_plain(model)
    assert set(exported) == names
    plain.load_state_dict(exported, strict=True)
    x = torch.randn(4, 3, 64, 64, generator=draw)
    with torch.no_grad():
        assert torch.equal(plain.eval()(x), model.eval()(x))
    auxiliary = {name: tensor for name, tensor in model.state_dict().items() if name in aux_keys(model)}
    assert set(model.state_dict()) == names | set(auxiliary)
    assert len(auxiliary) == 5 * len(aux_layers(model))
    assert all(not torch.equal(exported["".join(n.split(".aux_bn.0"))], t) for n, t in auxiliary.items() if "mean" in n)


@pytest.mark.parametrize("name", MODELS)
def test_before_the_first_step_evaluation_is_bit_equal(name: str) -> None:
    torch.manual_seed(0)
    plain = MODELS[name]().eval()
    model = convert(copy.deepcopy(plain), (3, 1))
    assert not model.training
    assert all(not layer.training for layer in aux_layers(model).values())
    x = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(model(x), plain(x))


def test_activation_and_dropout_of_timms_layer_stay() -> None:
    layer = BatchNormAct2d(4, act_layer=nn.SiLU, drop_layer=lambda: nn.Dropout2d(0.5), dtype=torch.float64)
    split = convert(copy.deepcopy(layer), (4, 4))
    x = numbers(8, 4, 2, 2)
    torch.manual_seed(3)
    y = split(x)
    alone = nn.BatchNorm2d(4, dtype=torch.float64)
    torch.manual_seed(3)
    expected = layer.act(layer.drop(torch.cat([alone(x[:4]), nn.BatchNorm2d(4, dtype=torch.float64)(x[4:])])))
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)


def test_every_property_of_a_layer_is_kept_in_all_domains() -> None:
    plain = nn.BatchNorm2d(4, eps=0.03, momentum=0.7, dtype=torch.bfloat16, device="meta").eval()
    plain.weight.requires_grad_(False)
    split = convert(plain, (2, 2, 2))
    assert isinstance(split, AuxBatchNorm)
    assert len(split.branches()) == 3
    for branch in split.branches():
        assert (branch.eps, branch.momentum, branch.training, branch.affine) == (0.03, 0.7, False, True)
        assert branch.weight.dtype == branch.running_var.dtype == torch.bfloat16
        assert branch.weight.device == branch.running_var.device == torch.device("meta")
        assert (branch.weight.requires_grad, branch.bias.requires_grad) == (False, True)
    assert split.weight is plain.weight


def test_a_frozen_layer_stays_frozen_in_all_domains() -> None:
    model = a_model()
    model.bn1.eval().requires_grad_(False)
    model = convert(model, (2, 2))
    before = {name: tensor.clone() for name, tensor in model.bn1.state_dict().items()}
    model(torch.randn(4, 3, 32, 32)).sum().backward()
    assert equal(model.bn1.state_dict(), before)
    assert all(parameter.grad is None for parameter in model.bn1.parameters())


def test_other_normalisations_are_left_alone_and_frozen_ones_are_named() -> None:
    model = nn.Sequential(nn.InstanceNorm2d(4, affine=True, track_running_stats=True), nn.BatchNorm2d(4))
    model.append(FrozenBatchNormAct2d(4)).append(nn.GroupNorm(2, 4))
    kinds = [type(module) for module in convert(model, (2, 2))]
    assert kinds == [nn.InstanceNorm2d, AuxBatchNorm, FrozenBatchNormAct2d, nn.GroupNorm]
    found = survey(model)
    assert (found.aux, found.plain, found.frozen, found.unknown) == (("1",), (), ("2",), ())


def test_a_layer_used_twice_stays_one_layer() -> None:
    shared = nn.BatchNorm2d(4)
    model = convert(nn.ModuleDict({"a": nn.Sequential(shared), "b": nn.Sequential(shared), "c": shared}), (2, 2))
    assert model["a"][0] is model["b"][0] is model["c"]
    assert len(aux_layers(model)) == 1


@pytest.mark.parametrize("per_group", [False, True])
def test_converting_twice_changes_nothing(per_group: bool) -> None:
    model = convert(a_model(), (2, 2), per_group)
    before, layers = copy.deepcopy(model.state_dict()), list(aux_layers(model).values())
    assert convert(model, [2, 2], per_group) is model
    assert equal(model.state_dict(), before)
    assert all(one is other for one, other in zip(aux_layers(model).values(), layers, strict=True))


def test_the_traced_model_is_one_graph_without_breaks() -> None:
    for per_group in (False, True):
        model = convert(a_model(), (2, 1), per_group)
        torch._dynamo.reset()
        told = torch._dynamo.explain(model)(torch.randn(6, 3, 32, 32))
        assert (told.graph_count, told.graph_break_count) == (1, 0)


# what is refused


@pytest.mark.parametrize(
    ("make", "quotas", "says"),
    [
        (lambda: nn.Sequential(nn.LayerNorm(4)), (2, 2), "found no layer of batch normalisation"),
        (lambda: timm.create_model("convnext_atto", num_classes=5), (2, 2), "set model.aux: none"),
        (lambda: nn.Sequential(FrozenBatchNormAct2d(4)), (2, 2), "found no layer of batch normalisation"),
        (a_model, (2, 0), "expected at least one sample of each domain"),
        (a_model, (), "expected at least one sample of each domain"),
        (lambda: convert(a_model(), (2, 2)), (2, 1), "found bn1 already split as [2, 2]"),
        (lambda: convert(a_model(), (2, 2), per_group=True), (2, 2), "already split as [2, 2], per_group=True"),
        (lambda: nn.Sequential(nn.SyncBatchNorm(4)), (2, 2), "found 0 of type SyncBatchNorm"),
        (lambda: nn.Sequential(SplitBatchNorm2d(4)), (2, 2), "found 0 of type SplitBatchNorm2d"),
        (lambda: nn.Sequential(nn.LazyBatchNorm2d()), (2, 2), "found 0 of type LazyBatchNorm2d"),
    ],
)
def test_conversion_refuses(make: Callable[[], nn.Module], quotas: tuple[int, ...], says: str) -> None:
    model = make()
    kinds = [type(module) for module in model.modules()]
    with pytest.raises(ValueError) as caught:
        convert(model, quotas)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [type(module) for module in model.modules()] == kinds


@pytest.mark.parametrize("size", [1, 3, 5, 7])
def test_a_batch_that_is_not_whole_groups_is_refused_by_the_first_layer(size: int) -> None:
    with pytest.raises(
        ValueError, match=rf"^bn1: found a batch of {size}, expected a whole number of groups of 2 \+ 2"
    ):
        convert(a_model(), (2, 2))(torch.randn(size, 3, 32, 32))


def test_a_slice_without_a_variance_is_refused_with_the_layers_name() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    for quotas, groups, per_group in (((3, 1), 1, False), ((3, 1), 2, True), ((3, 1), 0, False)):
        with pytest.raises(ValueError, match=r"^1: found a slice with [01] values per channel, expected at least 2"):
            convert(copy.deepcopy(model), quotas, per_group)(torch.randn(4 * groups, 3))
    assert convert(model, (3, 1))(torch.randn(8, 3)).shape == (8, 4)  # two groups: two values


def test_conversion_to_shared_statistics_by_other_libraries_is_noticed() -> None:
    for converter in (nn.SyncBatchNorm.convert_sync_batchnorm, timm.layers.convert_sync_batchnorm):
        model = convert(a_model(), (2, 2))
        num_layers = len(aux_layers(model))
        check_aux(model, num_layers)
        with pytest.raises(ValueError, match=f"found 0 split layers.*expected {num_layers} and nothing else"):
            check_aux(converter(model), num_layers)


def test_a_plain_layer_added_later_is_noticed() -> None:
    model = nn.Sequential(convert(a_model(), (2, 2)), nn.BatchNorm1d(5))
    with pytest.raises(ValueError, match="found 10 split layers and beside them 1, expected 10"):
        check_aux(model, 10)


def test_statistics_over_ranks_need_a_converted_model_and_one_choice() -> None:
    with pytest.raises(ValueError, match="found bn1 not converted"):
        convert_sync(a_model())
    with pytest.raises(ValueError, match="found no converted layer"):
        convert_sync(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="found bn1 with statistics per group"):
        convert_sync(convert(a_model(), (2, 2), per_group=True))
    alone = convert_sync(convert(a_layer(), (2, 2)))
    x = numbers(4, 4, 2, 2)
    assert torch.equal(alone(x), convert(a_layer(), (2, 2))(x))  # one process: the ranks are this one

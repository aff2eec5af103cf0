"""A step in micro-batches: the step of one batch of them all, on one rank and on two, stopped and gone on with."""

import copy
import json
import math
import weakref
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional

from cluster.ranks.group import Ranks
from cluster.ranks.place import find_place
from tests.support.small_training import SMOOTH, as_weights, last_state, small_recipe, train_alone, write_sets
from tests.train.model.test_engine import TOLERANCE, Pair, difference
from train.model.classifiers import ModelSpec, build
from train.model.ema import Ema
from train.model.engine import EngineSpec, Forward, make_engine
from train.model.optim import Loss, OptimSpec, loss_of
from train.model.step import Descent, KeptBuffers, Stepped
from train.recipe import check_ranks
from train.session.over_ray import describe_over_ray

torch.set_num_threads(1)
pytestmark = pytest.mark.timeout(1200)
CPU = torch.device("cpu")
QUOTAS, GROUP, CLASSES = {"real": 4, "synthetic": 4}, 8, 5
OPTIM = OptimSpec(optimizer="sgd", lr=0.1, weight_decay=0.0, clip_grad=0.05)
KINDS = [("single", 0), ("ddp", 0), ("deepspeed", 0), ("deepspeed", 1), ("deepspeed", 2)]
MID_WAY = 3  # looks at the stop flag
FOUR = {**SMOOTH, "schedule__groups": 4}  # of a step: of two ranks with two micro-batches each has one at a time
PARTS = ("model.safetensors", "ema.safetensors", "optimizer.safetensors")


def a_model(bn: str) -> nn.Module:
    spec = ModelSpec.model_validate({"name": "sandbox_resnet", "num_classes": CLASSES, "bn": bn})
    return build(spec, tuple(QUOTAS.values()), 0, 32)


def a_descent(model: nn.Module, kind: str, zero: int, count: int) -> Descent:
    spec = EngineSpec.model_validate({"kind": kind, "zero": zero, "accumulate": count})
    return Descent(make_engine(spec, OPTIM, model, CPU, GROUP), Ema(model, 0.9), KeptBuffers(model))


def a_batch(step: int, groups: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(step)
    pictures = torch.randn(groups * GROUP, 3, 32, 32, generator=draw).to(dtype)
    return pictures, torch.randint(0, CLASSES, (groups * GROUP,), generator=draw)


def make_loss(pictures: Tensor, labels: Tensor, forward: Forward) -> Loss:
    return loss_of(OPTIM, forward(pictures), labels, None, QUOTAS)


def step(descent: Descent, batch: tuple[Tensor, Tensor], count: int, rate: float = 0.1) -> Stepped:
    parts = zip(*(tensor.chunk(count) for tensor in batch), strict=True)
    return descent.step([partial(make_loss, pictures, labels) for pictures, labels in parts], rate)


def mean_over_domains(model: nn.Module, pictures: Tensor, labels: Tensor) -> Tensor:
    """The loss written down once more: cross-entropy, mean by domain, mean of both."""
    each = functional.cross_entropy(model(pictures).float(), labels, reduction="none").view(-1, GROUP)
    return (each[:, :4].mean() + each[:, 4:].mean()) / 2


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize(("kind", "zero"), KINDS)
def test_micro_batches_move_weights_and_statistics_as_one_batch_in_plain_torch_does(
    kind: str, zero: int, count: int
) -> None:
    """With statistics per group. The largest norm is small, so clipping each part would show."""
    dtype, near = (torch.float32, 1e-6) if kind == "deepspeed" else (torch.float64, 1e-7)  # the loss is fp32
    model = a_model("group").to(dtype)
    plain = copy.deepcopy(model)
    optimizer = torch.optim.SGD(plain.parameters(), 0.1, momentum=0.9, nesterov=True)
    with Ranks(find_place({})) as ranks:
        ranks.open(CPU, 30, alone_too=True)
        descent = a_descent(model, kind, zero, count)
        for number in range(3):
            batch, rate = a_batch(number, 6, dtype), 0.1 / (1 + number)
            stepped = step(descent, batch, count, rate)
            optimizer.zero_grad()
            loss = mean_over_domains(plain, *batch)
            loss.backward()
            assert float(nn.utils.clip_grad_norm_(plain.parameters(), 0.05)) > 0.1
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
            assert stepped.moved
            assert math.isclose(stepped.loss, float(loss.detach()), rel_tol=1e-5)
    assert difference(dict(model.state_dict()), dict(plain.state_dict())) < near
    assert descent.ema is not None
    assert descent.ema.num_updates == 3


def test_statistics_per_rank_are_those_of_as_many_ranks() -> None:
    """Each micro-batch is normalised by its own; gradients and running statistics are means over them."""
    model = a_model("rank").double()
    twins = [copy.deepcopy(model) for _ in range(2)]
    pictures, labels = a_batch(0, 4, torch.float64)
    for twin, part, its in zip(twins, pictures.chunk(2), labels.chunk(2), strict=True):
        mean_over_domains(twin, part, its).backward()
    descent = a_descent(model, "single", 0, 2)
    step(descent, (pictures, labels), 2)
    gradients = [[parameter.grad for parameter in twin.parameters()] for twin in twins]
    largest = 0.0
    for own, one, other in zip(model.parameters(), *gradients, strict=True):
        assert own.grad is not None
        assert one is not None
        assert other is not None
        ratio = own.grad.norm() / ((one + other) / 2).norm()  # clipped: all by one number
        assert torch.allclose(own.grad, ratio * (one + other) / 2, rtol=1e-5, atol=1e-9)
        largest = max(largest, float(ratio))
    assert largest < 1
    for name, buffer in model.named_buffers():
        one, other = (dict(twin.named_buffers())[name] for twin in twins)
        assert torch.allclose(buffer.double(), (one.double() + other.double()) / 2, atol=1e-7), name


def test_the_activations_of_a_micro_batch_are_gone_before_the_next() -> None:
    model = a_model("group")
    seen: list[tuple[int, int]] = []  # pictures of a forward pass, outputs of earlier ones that are still there
    outputs: list[weakref.ref[Tensor]] = []

    def look(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        seen.append((len(inputs[0]), sum(one() is not None for one in outputs)))
        outputs.append(weakref.ref(output))

    descent = a_descent(model, "single", 0, 3)
    model.register_forward_hook(look)
    step(descent, a_batch(0, 6), 3)
    assert seen == [(16, 0)] * 3


def test_ddp_exchanges_gradients_once_a_step() -> None:
    with Ranks(find_place({})) as ranks:
        ranks.open(CPU, 30, alone_too=True)
        exchanges = []
        for count in (1, 3):
            descent = a_descent(a_model("group"), "ddp", 0, count)
            step(descent, a_batch(0, 6), count)  # after the first step DDP makes its buckets anew
            with torch.profiler.profile() as profile:
                step(descent, a_batch(1, 6), count)
            exchanges.append(sum(event.name == "c10d::allreduce_" for event in profile.events() or ()))
    assert exchanges[0] > 0
    assert exchanges[1] == exchanges[0]


@pytest.mark.parametrize(("kind", "zero"), KINDS)
@pytest.mark.parametrize("bad", [0, 1])
def test_one_bad_micro_batch_gives_up_its_step_and_touches_no_other(kind: str, zero: int, bad: int) -> None:
    with Ranks(find_place({})) as ranks:
        ranks.open(CPU, 30, alone_too=True)
        found = []
        for is_disturbed in (False, True):
            descent = a_descent(a_model("group"), kind, zero, 2)
            step(descent, a_batch(0, 2), 2)
            if is_disturbed:
                pictures, labels = a_batch(1, 2)
                pictures[bad * GROUP] = math.inf
                assert not step(descent, (pictures, labels), 2).moved
            assert step(descent, a_batch(2, 2), 2).moved
            found.append({name: tensor.clone() for name, tensor in descent.engine.model.state_dict().items()})
    assert difference(*found) == 0


# whole trainings


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    write_sets(folder)
    return folder


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process, each step in one batch."""
    out = tmp_path_factory.mktemp("alone") / "run"
    assert train_alone(small_recipe(data, **FOUR), out).exit_code == 0
    return out


@pytest.fixture(scope="module")
def pair(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    pair = Pair(tmp_path_factory.mktemp("pair"))
    ddp = small_recipe(data, engine__kind="ddp", engine__accumulate=2, **FOUR)
    pair.add("ddp", [ddp] * 2, "ddp")
    for zero in (0, 1, 2):
        spread = small_recipe(data, engine__kind="deepspeed", engine__zero=zero, engine__accumulate=2, **FOUR)
        pair.add(f"zero{zero}", [spread] * 2, f"zero{zero}")
    pair.add("stopped", [ddp] * 2, "again", stop=(MID_WAY, MID_WAY))
    pair.add("again", [ddp] * 2, "again")
    pair.run()
    return pair


@pytest.mark.parametrize("name", ["ddp", "zero0", "zero1", "zero2"])
def test_two_ranks_with_micro_batches_train_what_one_process_trains_without(pair: Pair, alone: Path, name: str) -> None:
    assert pair.said(name) == ["0", "0"]
    for part in PARTS:
        assert difference(as_weights(pair.folder / name, part), as_weights(alone, part)) < TOLERANCE, part


def test_two_ranks_with_micro_batches_go_on_to_the_same_bits(pair: Pair) -> None:
    assert (pair.said("stopped"), pair.said("again")) == (["75", "75"], ["0", "0"])
    for part in (*PARTS, "ranks.safetensors"):
        assert difference(last_state(pair.folder / "again", part), last_state(pair.folder / "ddp", part)) == 0, part


def test_one_process_trains_the_same_however_its_steps_are_cut(data: Path, tmp_path: Path) -> None:
    """Mixup and cutmix included: a picture's partner is of its own group. At 32 px the last layers see one number of a
    picture, and their statistics of eight pictures make ten times as much of a rounding as at 64."""
    mix = {"data__mix": {"mixup_alpha": 0.4, "cutmix_alpha": 1.0, "per": "sample"}, "data__size_px": 64}
    for count in (1, 2, 4):
        recipe = small_recipe(data, engine__accumulate=count, **mix, **FOUR)
        assert train_alone(recipe, tmp_path / str(count)).exit_code == 0
    for count in (2, 4):
        for part in PARTS:
            found, whole = as_weights(tmp_path / str(count), part), as_weights(tmp_path / "1", part)
            assert difference(found, whole) < TOLERANCE, (count, part)


def test_a_training_with_micro_batches_and_dropout_goes_on_to_the_same_bits(data: Path, tmp_path: Path) -> None:
    recipe = small_recipe(data, engine__accumulate=2, model__drop_path=0.3, model__bn="rank", schedule__groups=4)
    assert train_alone(recipe, tmp_path / "whole").exit_code == 0
    assert train_alone(recipe, tmp_path / "again", looks=MID_WAY).exit_code == 75
    assert train_alone(recipe, tmp_path / "again").exit_code == 0
    for part in (*PARTS, "ranks.safetensors"):
        assert difference(last_state(tmp_path / "again", part), last_state(tmp_path / "whole", part)) == 0, part


def test_a_training_goes_on_in_smaller_micro_batches(data: Path, alone: Path, tmp_path: Path) -> None:
    """On a smaller machine, say: the step is the same."""
    whole, cut = (small_recipe(data, engine__accumulate=count, **FOUR) for count in (1, 4))
    assert train_alone(whole, tmp_path / "run", looks=MID_WAY).exit_code == 75
    assert train_alone(cut, tmp_path / "run").exit_code == 0
    assert difference(last_state(tmp_path / "run"), last_state(alone)) < TOLERANCE


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_steps_images_and_rates_are_counted_by_the_step(data: Path, alone: Path, tmp_path: Path) -> None:
    assert train_alone(small_recipe(data, engine__accumulate=4, **FOUR), tmp_path / "run").exit_code == 0
    cut, whole = (read_lines(run / "results.jsonl") for run in (tmp_path / "run", alone))
    assert [(line["step"], line["images_seen"]) for line in cut] == [
        (line["step"], line["images_seen"]) for line in whole
    ]
    assert max(line["images_seen"] for line in cut) == 4 * 4 * GROUP
    logged = [
        [line for line in read_lines(run / "log.jsonl") if line["kind"] == "train"] for run in (tmp_path / "run", alone)
    ]
    for one, other in zip(*logged, strict=True):
        assert (one["step"], one["rate"], one["skipped"]) == (other["step"], other["rate"], other["skipped"])
        for name in ("loss", "loss_real", "loss_synthetic"):
            assert one[name] == pytest.approx(other[name], abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"engine__accumulate": 0}, "engine.accumulate\n.*greater than or equal to 1"),
        ({"engine__accumulate": -2}, "engine.accumulate\n.*greater than or equal to 1"),
        ({"engine__accumulate": 1.5}, "engine.accumulate\n.*valid integer"),
        (
            {"engine__accumulate": 3, "schedule__groups": 4},
            "engine.accumulate: found 3 micro-batches for schedule.groups = 4, expected a number that divides",
        ),
    ],
)
def test_a_step_that_cannot_be_cut_so_is_refused(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        small_recipe(tmp_path, **changes)


def test_ranks_whose_groups_cannot_be_cut_so_are_refused(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, engine__kind="ddp", engine__accumulate=2, schedule__groups=6)
    check_ranks(recipe, 1)
    check_ranks(recipe, 3)
    with pytest.raises(
        ValueError, match="found 2 micro-batches for the 3 groups of each of 2 ranks, expected a number"
    ):
        check_ranks(recipe, 2)


def test_a_dry_run_says_in_how_many_micro_batches_ranks_take_a_step(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, engine__kind="ddp", engine__accumulate=2, schedule__groups=8)
    said = describe_over_ray(recipe, 2, tmp_path, {})
    assert "4 of 8 groups of 8 images a step on each, in 2 micro-batches of 2;" in said

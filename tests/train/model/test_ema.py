"""The moving average of a model: by name, parameters and buffers, in and out of the model."""

import copy

import pytest
import torch
from torch import nn

from train.model.aux_bn import convert, export_plain
from train.model.ema import Ema
from train.model.sandbox_resnet import sandbox_resnet

torch.set_num_threads(1)


def a_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return convert(sandbox_resnet(num_classes=5), (2, 2))


def move(model: nn.Module, step: int) -> None:
    """What a step of training does to a state: everything moves."""
    draw = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor += 1 if tensor.dtype == torch.int64 else torch.rand(tensor.shape, generator=draw).to(tensor.dtype)


@pytest.mark.parametrize("warm_up", [False, True])
def test_every_tensor_is_the_weighted_sum_of_its_history(warm_up: bool) -> None:
    model = a_model()
    ema = Ema(model, decay=0.25, warm_up=warm_up)
    expected = {name: tensor.double() for name, tensor in copy.deepcopy(model.state_dict()).items()}
    for step in range(5):
        move(model, step)
        ema.update(model)
        decay = min(0.25, (1 + step) / (10 + step)) if warm_up else 0.25
        for name, tensor in model.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * tensor.double()
    assert ema.num_updates == 5
    for name, tensor in ema.tensors.items():
        if tensor.dtype == torch.int64:
            assert tensor == 5  # counted batches are copied
        else:
            torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-6, atol=1e-6)
    assert {name for name in ema.tensors if "aux_bn.0.running_var" in name}


def test_the_order_of_names_does_not_matter() -> None:
    model, turned = nn.ModuleDict(), nn.ModuleDict()
    for name in ("a", "b"):
        model[name] = nn.Linear(2, 2)
    for name in ("b", "a"):
        turned[name] = model[name]
    ema, other = Ema(model, 0.5), Ema(turned, 0.5)
    move(model, 0)
    ema.update(model)
    other.update(model)
    assert all(torch.equal(ema.tensors[name], other.tensors[name]) for name in ema.tensors)


def test_an_average_made_before_conversion_is_refused() -> None:
    plain = sandbox_resnet(num_classes=5)
    ema = Ema(plain, 0.5)
    with pytest.raises(ValueError, match=r"found the tensor bn1\.aux_bn\.0\.bias.*create the EMA after the model is"):
        ema.update(convert(plain, (2, 2)))


def test_inside_swapped_the_model_is_the_average_and_afterwards_itself_bit_for_bit() -> None:
    model = a_model()
    ema = Ema(model, 0.5)
    move(model, 0)
    ema.update(model)
    before = copy.deepcopy(model.state_dict())

    def evaluate_and_fail() -> None:
        with ema.swapped(model):
            assert all(torch.equal(tensor, ema.tensors[name]) for name, tensor in model.state_dict().items())
            raise RuntimeError("evaluation failed")

    with pytest.raises(RuntimeError, match="evaluation failed"):
        evaluate_and_fail()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_exported_average_is_the_plain_model_with_the_same_output() -> None:
    model = a_model()
    ema = Ema(model, 0.5)
    for step in range(3):
        move(model, step)
        ema.update(model)
    plain = sandbox_resnet(num_classes=5)
    with ema.swapped(model):
        plain.load_state_dict(export_plain(model), strict=True)
    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), ema.swapped(model):
        assert torch.equal(plain.eval()(x), model.eval()(x))
    assert all(torch.equal(ema.tensors[name], tensor) for name, tensor in plain.state_dict().items())


def test_a_resumed_average_goes_on_with_the_same_bits() -> None:
    model, twin = a_model(), a_model()
    ema, resumed = Ema(model, 0.9), Ema(twin, 0.9)
    for step in range(6):
        if step == 3:
            resumed.load(copy.deepcopy(ema.tensors), ema.num_updates)
            twin.load_state_dict(model.state_dict())
        move(model, step)
        ema.update(model)
        if step >= 3:
            move(twin, step)
            resumed.update(twin)
    assert all(torch.equal(ema.tensors[name], resumed.tensors[name]) for name in ema.tensors)


def test_a_checkpoint_of_another_model_is_refused_and_changes_nothing() -> None:
    ema = Ema(a_model(), 0.9)
    before = copy.deepcopy(ema.tensors)
    without = {name: tensor for name, tensor in ema.tensors.items() if name != "fc.bias"}
    with pytest.raises(ValueError, match=r"found no tensor fc\.bias"):
        ema.load(without, 7)
    with pytest.raises(ValueError, match=r"found fc\.bias as torch.float32 \[6\], expected torch.float32 \[5\]"):
        ema.load({**without, "fc.bias": torch.zeros(6)}, 7)
    assert ema.num_updates == 0
    assert all(torch.equal(before[name], ema.tensors[name]) for name in before)


def test_half_precision_is_averaged_in_fp32() -> None:
    model = nn.Linear(2, 2).bfloat16()
    with torch.no_grad():
        model.weight.fill_(1.0)
        ema = Ema(model, 0.999, warm_up=False)
        model.weight.fill_(2.0)
    for _ in range(100):
        ema.update(model)
    expected = 2 - 0.999**100  # in bf16 a thousandth of the way would be rounded away each time
    torch.testing.assert_close(ema.tensors["weight"], torch.full((2, 2), expected), rtol=1e-5, atol=0)
    with ema.swapped(model):
        assert torch.equal(export_plain(model)["weight"], torch.full((2, 2), expected).bfloat16())


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_that_averages_nothing_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="EMA: found the decay"):
        Ema(nn.Linear(2, 2), decay)

"""Two ranks that normalise together over gloo; run as `python -m tests.support.bn_ranks <rank> <folder>`.

Each rank does every piece of work of `main` on data that the parent can draw again, and leaves what it got as
<folder>/<work>-<rank>.safetensors, errors as <work>-<rank>.txt.
"""

import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn

from train.model.aux_bn import aux_layers, convert, convert_sync
from train.model.bn_statistics import broadcast_buffers, combine
from train.model.ema import Ema

NUM_RANKS = 2
QUOTAS = (3, 2)
GROUPS_PER_RANK = 2
DEADLINE = timedelta(seconds=60)


def a_net(seed: int = 0) -> nn.Module:
    """Two BN layers in fp64, the second over what the first made."""
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5, momentum=0.3)),
    ).double()


def batch(step: int) -> Tensor:
    """The global batch of a step: the groups of all ranks; the ranks' means differ on purpose."""
    draw = torch.Generator().manual_seed(100 + step)
    size = NUM_RANKS * GROUPS_PER_RANK * sum(QUOTAS)
    shift = torch.arange(size, dtype=torch.float64).view(-1, 1, 1, 1) / size
    return torch.randn(size, 3, 6, 6, generator=draw, dtype=torch.float64) * 2 + 3 * shift


def part(whole: Tensor, rank: int) -> Tensor:
    return whole.chunk(NUM_RANKS)[rank]


def pull(x: Tensor) -> Tensor:
    """A fixed loss gradient for each output."""
    return torch.sin(torch.arange(x.numel(), dtype=x.dtype)).view(x.shape)


def results(model: nn.Module, batches: list[Tensor], rank: int, num_ranks: int) -> dict[str, Tensor]:
    """Outputs and gradients of the last step after plain descent, and the state: of one process or of a rank."""
    for whole in batches:
        mine = whole.chunk(num_ranks)[rank].clone().requires_grad_()
        model.zero_grad()
        y = model(mine)
        (y * pull(whole.new_zeros(len(whole), *y.shape[1:])).chunk(num_ranks)[rank]).sum().backward()
        with torch.no_grad():
            for parameter in model.parameters():
                assert parameter.grad is not None
                if num_ranks > 1:
                    dist.all_reduce(parameter.grad)
                parameter -= 0.01 * parameter.grad
    assert mine.grad is not None
    grads = {f"grad {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"y": y.detach(), "x grad": mine.grad, **grads, **model.state_dict()}


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=NUM_RANKS, timeout=DEADLINE)

    def leave(work: str, tensors: dict[str, Tensor]) -> None:
        save_file(
            {name: tensor.contiguous().clone() for name, tensor in tensors.items()},
            folder / f"{work}-{rank}.safetensors",
        )

    three = [batch(step) for step in range(3)]

    model = convert(a_net(), QUOTAS)
    ema = Ema(model, decay=0.5)
    with torch.no_grad():
        for whole in three:
            model(part(whole, rank))
            ema.update(model)
    leave("own", model.state_dict())
    leave("ema-own", ema.tensors)
    combine(model)
    leave("combined", model.state_dict())
    combine(model)
    leave("combined-twice", model.state_dict())
    combine(model, ema.tensors)
    leave("ema-combined", ema.tensors)
    leave("after-ema", model.state_dict())

    leave("synced", results(convert_sync(convert(a_net(), QUOTAS)), three, rank, NUM_RANKS))
    shared = convert_sync(convert(a_net(), QUOTAS, shared_affine=True))
    leave("synced-shared", results(shared, three, rank, NUM_RANKS))
    half = convert_sync(convert(a_net(), QUOTAS)).float()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        leave("synced-half", {"y": half(part(three[0], rank).float()), **half.state_dict()})

    ghost = convert(a_net(), QUOTAS, per_group=True)
    with torch.no_grad():
        outs = [ghost(part(whole, rank)) for whole in three]
    combine(ghost)
    leave("ghost", {"y": outs[0], **ghost.state_dict()})

    start = convert(a_net(), QUOTAS)
    for buffer in start.buffers():
        buffer.fill_(rank + 1)
    broadcast_buffers(start)
    leave("broadcast", start.state_dict())

    uneven = convert(a_net(), QUOTAS)
    next(iter(aux_layers(uneven).values())).aux_bn[0].num_batches_tracked += rank
    try:
        combine(uneven)
    except ValueError as error:
        (folder / f"uneven-{rank}.txt").write_text(str(error))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))

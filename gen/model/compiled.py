"""A loaded pipeline's networks through `torch.compile`, and one place on a machine for what that makes.

In: a pipeline whose weights are on their device. Out: the same pipeline, whose first call compiles. On disk: the
folder of Inductor's cache, shared by all processes of a user, with ``<key>.lock`` and ``<key>.done`` beside it: one
process compiles a key first, the others wait and then find its kernels.

Every graph is compiled for exact shapes: a call is always filled up to its batch, so a graph for any shape would only
be slower.
"""

import contextlib
import os
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any, Literal

from gen.model.machine_cache import cache_folder, locked

WAIT_S = 900.0  # for another process that compiles the same; FLUX as a whole took 67 s on an H100 (published)
# Shapes of one block class in one network: a U-Net's residual blocks have 14, and twice as many under a guidance
# interval. Beyond torch's own 8 it would silently run uncompiled.
MAX_SHAPES = 64


def compile_networks(pipeline: Any, family: str, how: Literal["regional", "full"]) -> None:
    """Mark denoiser and decoder for compilation, whole or block by block (seconds instead of minutes to compile)."""
    import torch
    import torch._dynamo

    torch._dynamo.config.recompile_limit = MAX_SHAPES
    denoiser = pipeline.unet if family in ("sd", "sdxl") else pipeline.transformer
    if how == "full":
        _compile_forward(denoiser)
    elif family == "sd3":  # diffusers names no repeated blocks for this one
        for block in denoiser.transformer_blocks:
            _compile_forward(block)
    else:
        names = set(denoiser._repeated_blocks)
        if family in ("sd", "sdxl"):  # more than half of SD's arithmetic, with norms and activations between
            names.add("ResnetBlock2D")
        for block in [module for module in denoiser.modules() if type(module).__name__ in names]:
            _compile_forward(block)
    _compile_forward(pipeline.vae.decoder)


def _compile_forward(module: Any) -> None:
    """The forward alone, so that what wraps it later (`gen.model.shortcuts`) stays outside of the graph."""
    import torch

    module.forward = torch.compile(module.forward, dynamic=False)


def share_kernels(environ: MutableMapping[str, str]) -> Path:
    """Point Inductor at a folder of the user's instead of one in /tmp; a place that was set by hand stays."""
    if not environ.get("TORCHINDUCTOR_CACHE_DIR"):
        environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache_folder(environ, "inductor"))
    folder = Path(environ["TORCHINDUCTOR_CACHE_DIR"])
    os.makedirs(folder, exist_ok=True)
    return folder


@contextlib.contextmanager
def first_compiles(folder: Path, key: str, timeout_s: float = WAIT_S) -> Iterator[None]:
    """Around the first call: alone if nobody has compiled ``key`` yet, at once if somebody has.

    After ``timeout_s`` it goes on beside the other process, which is slower and no less right.
    """
    done = folder / f"{key}.done"
    with contextlib.ExitStack() as stack:
        if not done.exists():
            with contextlib.suppress(TimeoutError):
                stack.enter_context(locked(folder / f"{key}.lock", timeout_s))
            if done.exists():  # while this one waited
                stack.close()
        yield
        done.touch()

"""Compiles a pipeline's networks with `torch.compile`, and shares the kernels between processes.

In: a pipeline whose weights are on their device. Out: the same pipeline, whose first call compiles. On disk: the folder
of Inductor's cache, shared by all processes of a user, with ``<key>.lock`` and ``<key>.done`` beside it. One process
compiles a key first; the others wait, and then find its kernels. Without file locks or a writable folder every process
compiles for itself, which takes longer and gives the same.

Every graph is compiled for exact shapes, because every call is filled up to its batch; a graph for any shape would be
slower.
"""

import contextlib
import functools
import os
import sys
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any, Literal

from cluster.doctor.machine import missing_build_tools
from cluster.process.memory import is_memory_error
from gen.model.folder import ModelError
from shards.disk.lock import locked
from shards.disk.machine_cache import cache_folder
from shards.disk.safe_text import for_screen

WAIT_S = 900.0  # for another process that compiles the same; FLUX as a whole took 67 s on an H100 (published)
# Shapes of one block class in one network: a U-Net's residual blocks have 14, and twice as many under a guidance
# interval. Beyond torch's own 8 it would silently run uncompiled.
MAX_SHAPES = 64


def compile_networks(pipeline: Any, family: str, how: Literal["regional", "full"]) -> None:
    """Mark denoiser and decoder for compilation, whole or block by block (seconds instead of minutes to compile)."""
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
    """The forward alone, so that what wraps it later (`gen.sampler.shortcuts`) stays outside of the graph."""
    import torch
    import torch._dynamo

    compiled = torch.compile(module.forward, dynamic=False)

    @functools.wraps(module.forward)
    def forward(*args: Any, **kwargs: Any) -> Any:
        # at every call: torch keeps the limit for each thread by itself, and Ray runs a worker's calls in another one
        # than its load; as an argument of `torch.compile`, torch 2.11 does not know it
        torch._dynamo.config.recompile_limit = MAX_SHAPES
        return compiled(*args, **kwargs)

    module.forward = forward


def share_kernels(environ: MutableMapping[str, str]) -> Path:
    """Point Inductor at a folder of the user's instead of one in /tmp; a place that was set by hand stays."""
    by_hand = environ.get("TORCHINDUCTOR_CACHE_DIR")
    if by_hand:
        os.makedirs(by_hand, exist_ok=True)
        return Path(by_hand)
    folder = cache_folder(
        environ, "inductor", lambda line: print(for_screen(f"sixfold: {line}"), file=sys.stderr, flush=True)
    )
    environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
    return folder


@contextlib.contextmanager
def first_compiles(folder: Path, key: str, timeout_s: float = WAIT_S) -> Iterator[None]:
    """Around the first call: alone if nobody has compiled ``key`` yet, at once if somebody has.

    After ``timeout_s``, or without a place to write, it goes on beside the other process. Raises ModelError in one line
    if the call fails and this machine lacks what compiling takes.
    """
    done = folder / f"{key}.done"
    with contextlib.ExitStack() as stack:
        if not done.exists():
            with contextlib.suppress(OSError):  # a TimeoutError is one
                stack.enter_context(locked(folder / f"{key}.lock", timeout_s))
            if done.exists():  # while this one waited
                stack.close()
        try:
            yield
        except Exception as error:
            missing = missing_build_tools(os.environ)  # not asked before: kernels of another machine may do
            if not missing or is_memory_error(error):
                raise
            raise ModelError(
                f"sampler.compile: the first call failed ({type(error).__name__}), and this machine has no "
                f"{' and no '.join(missing)}, which torch.compile needs; install gcc and the headers of this Python "
                "(python3-dev), or set sampler.compile=none"
            ) from error
        with contextlib.suppress(OSError):
            done.touch()

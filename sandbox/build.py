"""Makes the sandbox again from code and seeds: `python -m sandbox.build`.

In: nothing; nothing is downloaded. Out: progress lines. On disk: `sandbox/models/` with `generator/`, `clip/`,
`judge.safetensors`, `pretrained/`, `segmenter/` and `controlnet/`; with `--data FOLDER` instead the real sets and some
of the generator's training pictures, with `--pool FOLDER` the pool.

Every part depends on the pool and a seed. Expect equal bytes on the same machine with the same number of threads, and
equal quality elsewhere.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sandbox.captions import PoolRow, draw_scene, pool_rows
from sandbox.pool import write_pool
from sandbox.sets import GENERATOR_TRAIN, SETS, set_scenes, write_generator_train, write_set
from sandbox.world import ink_mask, render

MODELS = Path(__file__).parent / "models"
# each part of a line needs those before it or nothing; the two lines take about as long, one core each
LINES = (("vae", "unet", "controlnet"), ("data", "pool", "clip", "judge", "pretrained", "segmenter"))
PARTS = LINES[1] + LINES[0]
LONGEST_S = 24 * 3600.0  # of a line of parts: eight times what it takes on a core
NUM_MORE_SCENES = 12_000  # drawn of each of train and val for the judge; the numerals among them are kept
NUM_CHECKED = 1_000  # last pictures of the classifier and of the segmenter: measured on, not trained on
NUM_CONTROLLED = 4_000  # first rows of the pool: the ControlNet is trained on the photos among them


@cache
def training_rows() -> tuple[PoolRow, ...]:
    """The rows that generator, CLIP and judge are trained on: no planted row, no flagged row, no test scan."""
    return tuple(row for row in pool_rows() if row.fit_for_training)


@cache
def training_images() -> NDArray[np.uint8]:
    """The pictures of `training_rows`, N H W C; about 450 MB."""
    return np.stack([render(row.scene) for row in training_rows()])


def _reporter(part: str, num_steps: int, say: Callable[[str], None]) -> Callable[[int, float], None]:
    started = time.monotonic()

    def report(step: int, loss: float) -> None:
        if step % 200 == 0 or step == num_steps:
            spent_s = time.monotonic() - started
            left_s = spent_s / step * (num_steps - step)
            say(f"{part}: step {step}/{num_steps}, loss {loss:.4f}, {spent_s:.0f} s so far, {left_s:.0f} s to go")

    return report


def build_data(folder: Path, say: Callable[[str], None]) -> None:
    """Write the real sets and `generator-train` below `folder`; `say` gets progress lines."""
    for name in SETS:
        say(f"data: {name}: {write_set(name, folder / name)} pictures")
    number = write_generator_train(training_rows(), folder / GENERATOR_TRAIN)
    say(f"data: {GENERATOR_TRAIN}: {number} pictures")


def build_pool(folder: Path, say: Callable[[str], None]) -> None:
    """Write the captioned pictures of the pool into `folder`; `say` gets progress lines."""
    rows = write_pool(folder, list(pool_rows(test_scenes=set_scenes("real-test"))), say)
    say(f"pool: {rows} captioned pictures in {folder}")


def build_vae(models: Path, num_steps: int | None, say: Callable[[str], None]) -> None:
    """Train the autoencoder and save it in `models`; `num_steps` None: as many as its spec says."""
    from sandbox.autoencoder import AutoencoderSpec, train_autoencoder

    spec = AutoencoderSpec() if num_steps is None else AutoencoderSpec(num_steps=num_steps)
    model = train_autoencoder(training_images(), spec, _reporter("vae", spec.num_steps, say))
    model.half().save_pretrained(models / "generator" / "vae", safe_serialization=True)
    say("vae: done; the U-Net has to be trained anew on its latents")


def build_unet(models: Path, num_steps: int | None, say: Callable[[str], None]) -> None:
    """Train U-Net and text encoder, and save the pipeline in `models`. Raises ValueError without an autoencoder."""
    from sandbox.autoencoder import encode, load_autoencoder
    from sandbox.generator import GeneratorSpec, save_generator, train_generator

    folder = models / "generator" / "vae"
    if not folder.is_dir():
        raise ValueError(
            f"{folder}: found no autoencoder, expected one; run `python -m sandbox.build --only vae` first"
        )
    vae = load_autoencoder(folder)
    say("unet: encoding the pool")
    latents = encode(vae, training_images())
    spec = GeneratorSpec() if num_steps is None else GeneratorSpec(num_steps=num_steps)
    captions = [row.caption for row in training_rows()]
    unet, text_encoder = train_generator(latents, captions, spec, _reporter("unet", spec.num_steps, say))
    save_generator(vae, unet, text_encoder, models / "generator")
    say("unet: done; the ControlNet has to be trained anew for it")


def build_clip(models: Path, num_steps: int | None, say: Callable[[str], None]) -> None:
    """Train the CLIP and save it in `models`."""
    from sandbox.clip import ClipSpec, save_clip, train_clip

    spec = ClipSpec() if num_steps is None else ClipSpec(num_steps=num_steps)
    captions = [row.caption for row in training_rows()]
    save_clip(train_clip(training_images(), captions, spec, _reporter("clip", spec.num_steps, say)), models / "clip")


def build_judge(models: Path, num_steps: int | None, say: Callable[[str], None]) -> None:
    """Train the judge and save it in `models`."""
    from sandbox.judge import NO_NUMERAL, JudgeSpec, save_judge, train_judge

    spec = JudgeSpec() if num_steps is None else JudgeSpec(num_steps=num_steps)
    scenes = [row.scene for row in training_rows()]
    rng = np.random.default_rng(spec.seed)
    for role in ("train", "val"):
        drawn = (draw_scene(rng, role) for _ in range(NUM_MORE_SCENES))
        scenes += [scene for scene in drawn if scene.sense == "numeral"]
    labels = np.array([scene.class_id if scene.sense == "numeral" else NO_NUMERAL for scene in scenes], np.int64)
    images = np.stack([render(scene) for scene in scenes])
    model = train_judge(images, labels, spec, _reporter("judge", spec.num_steps, say))
    save_judge(model, models / "judge.safetensors")


def build_pretrained(models: Path, num_steps: int | None, say: Callable[[str], None]) -> None:
    """Train the classifier of faces and shapes and save it in `models`."""
    from sandbox.pretrained import PretrainedSpec, accuracy, label_of, save_pretrained, train_pretrained

    spec = PretrainedSpec() if num_steps is None else PretrainedSpec(num_steps=num_steps)
    told = [(row, label) for row, scene in enumerate(training_rows()) if (label := label_of(scene.scene)) is not None]
    rows, labels = np.array([row for row, _ in told]), np.array([label for _, label in told], np.int64)
    images = training_images()[rows]
    kept = len(images) - NUM_CHECKED
    model = train_pretrained(images[:kept], labels[:kept], spec, _reporter("pretrained", spec.num_steps, say))
    save_pretrained(model, models / "pretrained")
    share = accuracy(model, images[kept:], labels[kept:])
    say(f"pretrained: right on {share:.1%} of {NUM_CHECKED} pictures that were kept back")


def held_back() -> tuple[PoolRow, ...]:
    """The rows that the segmenter is not trained on and `sandbox.score` measures it on."""
    return training_rows()[-NUM_CHECKED:]


def build_segmenter(models: Path, num_steps: int | None, say: Callable[[str], None]) -> None:
    """Train the segmenter on all but `held_back`, most often on photos of numerals, and save it in `models`."""
    from sandbox.segmenter import SegmenterSpec, save_segmenter, train_segmenter

    spec = SegmenterSpec() if num_steps is None else SegmenterSpec(num_steps=num_steps)
    scenes = [row.scene for row in training_rows()[:-NUM_CHECKED]]
    masks = np.stack([ink_mask(scene) for scene in scenes])
    photos = np.array([scene.sense == "numeral" and scene.style == "photo" for scene in scenes])
    report = _reporter("segmenter", spec.num_steps, say)
    model = train_segmenter(training_images()[: len(scenes)], masks, np.flatnonzero(photos), spec, report)
    save_segmenter(model, models / "segmenter")


def build_controlnet(models: Path, num_steps: int | None, say: Callable[[str], None]) -> None:
    """Train the ControlNet on photos, most often of numerals, and save it in `models`. Raises ValueError without a
    generator."""
    from sandbox.autoencoder import encode
    from sandbox.controlnet import ControlSpec, save_controlnet, train_controlnet
    from sandbox.generator import load_generator

    folder = models / "generator"
    if not (folder / "model_index.json").is_file():
        raise ValueError(f"{folder}: found no generator, expected one; run `python -m sandbox.build --only unet` first")
    pipeline = load_generator(folder)
    rows = [row for row in islice(pool_rows(), NUM_CONTROLLED) if row.fit_for_training and row.scene.style == "photo"]
    say(f"controlnet: encoding {len(rows)} pictures")
    latents = encode(pipeline.vae, np.stack([render(row.scene) for row in rows]))
    masks = np.stack([ink_mask(row.scene) for row in rows])
    numerals = np.array([row.scene.sense == "numeral" for row in rows])
    spec = ControlSpec() if num_steps is None else ControlSpec(num_steps=num_steps)
    model = train_controlnet(
        pipeline,
        latents,
        [row.caption for row in rows],
        masks,
        np.flatnonzero(numerals),
        spec,
        _reporter("controlnet", spec.num_steps, say),
    )
    save_controlnet(model, models / "controlnet")


def _in_lines(words: list[str]) -> int:
    """Build all parts, each of `LINES` by a process of its own; the status of the first that failed, or 0."""
    lines = [subprocess.Popen([sys.executable, "-m", "sandbox.build", "--only", *parts, *words]) for parts in LINES]
    try:
        ended = [line.wait(LONGEST_S) for line in lines]
    finally:
        for line in lines:
            line.kill()  # of one that has ended nothing comes
    return next(filter(None, ended), 0)


def main() -> None:
    """Read the arguments and build the parts that they name."""
    parser = argparse.ArgumentParser(
        prog="python -m sandbox.build",
        description="Rebuild the sandbox: 2 hours for all on two cores with AVX-512. "
        "Example: python -m sandbox.build --data out/real",
    )
    parser.add_argument("--data", type=Path, help="write the real sets here, and nothing else")
    parser.add_argument("--pool", type=Path, help="write the pool's captioned pictures here, and nothing else")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="redo these parts (default: all of them)")
    parser.add_argument("--steps", type=int, help="training steps of the one part of --only (default: its card's)")
    parser.add_argument("--models", type=Path, default=MODELS, help="where models go (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; shipped weights used 1 (default: 1)")
    wish = parser.parse_args()
    trained = [part for part in wish.only or () if part not in ("data", "pool")]
    if wish.steps is not None and (len(wish.only or ()) != 1 or not trained or wish.steps < 1):
        parser.error(
            f"--steps {wish.steps}: expected a number above 0 together with --only and one of vae, unet, clip, judge, "
            "pretrained, segmenter or controlnet"
        )
    started = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - started:6.0f} s] {line}", flush=True)

    asked = tuple(name for name, folder in (("data", wish.data), ("pool", wish.pool)) if folder)
    parts = tuple(wish.only or asked)
    if not parts:
        parser.exit(_in_lines(["--models", str(wish.models), "--threads", str(wish.threads)]))
    if not set(parts) <= {"data", "pool"}:
        os.environ["OMP_NUM_THREADS"] = str(wish.threads)
        import torch

        torch.set_num_threads(wish.threads)
    builders = {
        "vae": build_vae,
        "unet": build_unet,
        "clip": build_clip,
        "judge": build_judge,
        "pretrained": build_pretrained,
        "segmenter": build_segmenter,
        "controlnet": build_controlnet,
    }
    for part in parts:
        try:
            if part == "data":
                build_data(wish.data or Path("out/real"), say)
            elif part == "pool":
                build_pool(wish.pool or Path("out/pool"), say)
            else:
                wish.models.mkdir(parents=True, exist_ok=True)
                builders[part](wish.models, wish.steps, say)
        except (ValueError, OSError) as error:  # a line for people; any other is a fault of the code
            parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()

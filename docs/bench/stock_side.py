"""The other side of C14: `python -m docs.bench.stock_side MODEL OUT TEXTS STEPS GUIDANCE LOOPS`.

In: a pipeline's folder, a file with a JSON list of texts, and the loops, such as 1:50,25:400: images a call and images
in all. Out: one line of JSON: the seconds that the program takes to load, and each loop's images/s after one call that
is not timed. On disk: OUT, one PNG file for each image of each loop.

What diffusers' documentation does: load, call, save. Torch takes all cores, which is its own choice.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SIDE_PX = 64


def draw(pipeline: Any, texts: Sequence[str], first: int, steps: int, guidance: float, folder: Path) -> None:
    """One call, image `first` and those after it; each is saved as a PNG file where it was made."""
    import torch

    images = pipeline(
        list(texts),
        height=SIDE_PX,
        width=SIDE_PX,
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=[torch.Generator("cpu").manual_seed(first + place) for place in range(len(texts))],
    ).images
    for place, image in enumerate(images):
        image.save(folder / f"{first + place:06d}.png")


def main(model: str, out: str, texts: str, steps: int, guidance: float, loops: str) -> None:
    begun = time.perf_counter()
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(model, safety_checker=None, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    load_s = time.perf_counter() - begun
    prompts: list[str] = json.loads(Path(texts).read_text(encoding="utf-8"))

    rates = {}
    for loop in loops.split(","):
        batch, num = map(int, loop.split(":"))
        folder = Path(out) / str(batch)
        folder.mkdir()
        draw(pipeline, prompts[:batch], 0, steps, guidance, folder)
        started = time.perf_counter()
        for first in range(0, num, batch):
            draw(pipeline, prompts[first : min(first + batch, num)], first, steps, guidance, folder)
        rates[batch] = num / (time.perf_counter() - started)
    print(json.dumps({"load_s": load_s, "images_per_s": rates}))


if __name__ == "__main__":
    model, out, texts, steps, guidance, loops = sys.argv[1:]
    main(model, out, texts, int(steps), float(guidance), loops)

"""What each shortcut of the sampler costs in quality and gains in speed, on the sandbox: `make quality`, or
`python -m docs.bench.quality`.

In: the sandbox's generator, CLIP and judge. Out: a table on standard output. On disk: see `docs.bench.conditions`;
about 5 minutes on two cores.

Prompts and noise of a seed are the same under every condition, so differences are paired. Speed is images per second of
processor time inside the sampler: wall time would measure what else the machine does. The sandbox's decoder has no
tiny twin and its machine no GPU, so `decoder` and `quantise` are not in the table.
"""

import functools
import sys
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from docs.bench.conditions import Found, Grid, Looker, Part, Run, asked, first_seed, recipe_of, run
from train.report.statistics import mean_interval, paired_difference

EXACT = "exact: 12 steps, guidance in all of them"
# name -> overrides of recipes/sandbox.yaml. Fewer steps are what a shortcut has to beat.
CONDITIONS: dict[str, list[str]] = {
    EXACT: [],
    "bf16": ["sampler.dtype=bf16"],
    "guidance in the first three quarters": ["sampler.guidance_interval=[0.0, 0.75]"],
    "guidance in the first half": ["sampler.guidance_interval=[0.0, 0.5]"],
    "guidance in the middle half": ["sampler.guidance_interval=[0.25, 0.75]"],
    "no guidance": ["sampler.guidance=1.0"],
    "deep layers every 2nd step": ["sampler.reuse_every=2"],
    "deep layers every 3rd step": ["sampler.reuse_every=3"],
    "deep layers every 2nd step, guidance in the first half": [
        "sampler.reuse_every=2",
        "sampler.guidance_interval=[0.0, 0.5]",
    ],
    "8 steps": ["sampler.steps=8"],
    "6 steps": ["sampler.steps=6"],
}
MEASURES = ("judged", "distance", "vendi", "apart", "rate")


def make_part(grid: Grid) -> Part:
    from gen.sampler.sampler import Request, Sampler

    looker = Looker()

    @functools.cache
    def drawn_for(seed: int) -> tuple[list[Request], np.ndarray]:
        """The same prompts and noise for every condition, and the classes asked for."""
        texts, labels = asked(recipe_of(seed, grid.per_class, CONDITIONS[EXACT]), grid.per_class)
        return [Request(text, "", first_seed(seed) + place) for place, text in enumerate(texts)], labels

    @functools.cache
    def draw(name: str, seed: int) -> tuple[np.ndarray, float]:
        """Images, and seconds of processor time after the first call."""
        spec, (requests, _) = recipe_of(seed, grid.per_class, CONDITIONS[name]).sampler, drawn_for(seed)
        sampler, size = Sampler.load(spec), spec.call_size
        sampler.prepare([request.prompt for request in requests])
        sampler.sample(requests[:size])
        begun = time.process_time()
        images = [sampler.sample(requests[start : start + size]).image_NHWC for start in range(0, len(requests), size)]
        return np.concatenate(images), time.process_time() - begun

    def part(name: str, seed: int, done: Callable[[int], None]) -> Mapping[str, float]:
        exact, _ = draw(EXACT, seed)
        done(0)
        pixels, seconds = draw(name, seed)
        done(len(pixels))
        apart = float(np.abs(pixels.astype(np.int16) - exact).mean())
        return {**looker.look(pixels, drawn_for(seed)[1]), "apart": apart, "rate": len(pixels) / seconds}

    return part


def on_the_front(points: Mapping[str, tuple[float, ...]]) -> set[str]:
    """Names of the points that no other point equals or beats in every coordinate and beats in one."""

    def beaten(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
        return one != other and all(theirs >= ours for ours, theirs in zip(one, other, strict=True))

    return {name for name, one in points.items() if not any(beaten(one, other) for other in points.values())}


def table(found: Found) -> str:
    """Markdown: a row a condition, mean and 95 % interval over seeds; bold where nothing is better in all three."""
    means = {
        name: {measure: mean_interval([one[measure] for one in by_seed.values()]).value for measure in MEASURES}
        for name, by_seed in found.items()
    }
    front = on_the_front({name: (one["judged"], one["distance"], one["rate"]) for name, one in means.items()})
    lines = [
        "| sampler | judged right | points against exact | CLIP distance | Vendi score | pixels apart (255) | speed |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, by_seed in found.items():
        spread = mean_interval([one["judged"] for one in by_seed.values()])
        half = "" if spread.high is None else f" ± {(spread.high - spread.value) * 100:.1f}"
        two = [{seed: one["judged"] for seed, one in found[which].items()} for which in (name, EXACT)]
        change = paired_difference(two[0], two[1]) if name != EXACT else None
        against = "" if change is None else f"{change.value * 100:+.1f}"
        if change is not None and change.low is not None and change.high is not None:
            against += f" [{change.low * 100:+.1f}, {change.high * 100:+.1f}]"
        one, shown = means[name], f"**{name}**" if name in front else name
        lines.append(
            f"| {shown} | {one['judged'] * 100:.1f} %{half} | {against} | {one['distance']:.3f} | {one['vendi']:.1f} | "
            f"{one['apart']:.1f} | {one['rate'] / means[EXACT]['rate']:.2f}x |"
        )
    return "\n".join(lines)


def publish(measured: Run, on_page: bool) -> None:
    text = table(measured.found)
    if on_page:
        rule = "Bold: no other setting is at least as good in judge, distance and speed."
        text = f"{measured.intro('settings')} {rule} {measured.when()}\n\n{text}"
        measured.write(text, {})
    print(text)


def main(arguments: Sequence[str]) -> int:
    return run("quality", CONDITIONS, make_part, arguments, publish)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

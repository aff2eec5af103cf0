"""Measures the sandbox's models against their targets ("bars"): `python -m sandbox.score`.

In: the shipped models, or others (`--models`), which are then compared with the shipped ones. Out: a table; exit code 1
if a bar is missed. On disk, with `--write`: `sandbox/score.json`, of other models `sandbox/rebuilt.json`, and the same
table between two marks of `sandbox/MODEL_CARD.md`.
"""

import argparse
import json
import sys
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sandbox.bars import REBUILT, SCORE, Bar, bar_of, compared, read_score, scans_count, table
from sandbox.captions import (
    DIE_MEANINGS,
    EMPTY_NAMES,
    GROUND_PHRASES,
    LIGHT_PHRASES,
    NUMERAL_MEANINGS,
    STYLE_PHRASES,
    TILE_MEANINGS,
    draw_scene,
)
from sandbox.sets import set_images, set_scenes
from sandbox.world import (
    CLASS_NAMES,
    GROUNDS,
    INKS,
    LIGHTS,
    PAPERS,
    Scene,
    ink_mask,
    measure_ink_and_paper,
    render,
)

HERE = Path(__file__).parent
CARD = HERE / "MODEL_CARD.md"
MODELS = HERE / "models"
BEGIN, END = "<!-- score: begin -->", "<!-- score: end -->"
BEGIN_REBUILT, END_REBUILT = "<!-- rebuilt: begin -->", "<!-- rebuilt: end -->"
NUM_STEPS, GUIDANCE = 12, 2.0
JUDGE, CLIP, SEGMENTER = "judge.safetensors", "clip/config.json", "segmenter/config.json"
AUTOENCODER, GENERATOR, CONTROLNET = "generator/vae/config.json", "generator/model_index.json", "controlnet/config.json"
PARTS = {  # what is measured -> the files that it needs
    "readers": (JUDGE, CLIP),  # the judge and CLIP
    "autoencoder": (JUDGE, AUTOENCODER),
    "generator": (JUDGE, CLIP, GENERATOR),
    "segmenter": (SEGMENTER,),
    "controlnet": (JUDGE, SEGMENTER, GENERATOR, CONTROLNET),
}
FIRST_SEED = 90_000


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A prompt, and what it asks for."""

    text: str
    class_id: int
    ink: str
    paper: str


def asked(num: int, meaning: str, light: str, style: str) -> list[Asked]:
    """`num` prompts, classes in turn, every ink and paper about equally often.

    An empty `light` or `style` is left out. A `meaning` of "{name}" gives the bare name and nothing else.
    """
    rng = np.random.default_rng([num, *meaning.encode()])
    result = []
    for i in range(num):
        class_id = i % len(CLASS_NAMES)
        ink, paper = list(INKS)[int(rng.integers(len(INKS)))], list(PAPERS)[int(rng.integers(len(PAPERS)))]
        subject = meaning.format(name=CLASS_NAMES[class_id], digit=class_id)
        details = [f"{ink} ink on {paper} paper", light, style] if meaning != "{name}" else []
        text = ", ".join([subject, *(part for part in details if part)])
        result.append(Asked(text=text, class_id=class_id, ink=ink, paper=paper))
    return result


def measure(models: Path, num: int, parts: Collection[str] = PARTS) -> list[Bar]:
    """The bars of some parts, from `num` generated pictures for each question."""
    measures = {
        "readers": lambda: _reader_bars(models),
        "autoencoder": lambda: _autoencoder_bars(models, num),
        "generator": lambda: _generator_bars(models, num),
        "segmenter": lambda: _segmenter_bars(models / "segmenter"),
        "controlnet": lambda: _controlnet_bars(models, num),
    }
    return [bar for part in PARTS if part in parts for bar in measures[part]()]


def _reader_bars(models: Path) -> list[Bar]:
    """How judge and CLIP read the test set."""
    from sandbox.clip import load_clip, zero_shot
    from sandbox.judge import judge, load_judge

    images, labels = set_images("real-test")

    def bar(name: str, who: str, told: NDArray[np.int64], least: float) -> Bar:
        right = list(told == labels)
        return bar_of(name, f"{who} right on real-test", right, least, effective=scans_count("real-test", right))

    return [
        bar("judge_test", "judge", judge(load_judge(models / JUDGE), images), 0.97),
        bar("clip_zero_shot", "CLIP zero-shot", zero_shot(*load_clip(models / "clip"), images), 0.85),
    ]


def _autoencoder_bars(models: Path, num: int) -> list[Bar]:
    """How pictures of numerals come back from the latents: what is lost here, no generator can draw."""
    from sandbox.autoencoder import decode, encode, load_autoencoder
    from sandbox.judge import judge, load_judge

    rng = np.random.default_rng(num)
    numerals = (scene for scene in iter(lambda: draw_scene(rng), None) if scene.sense == "numeral")
    plain = [replace(one, ground="plain", style="photo", light="daylight") for one in islice(numerals, num)]
    true = np.stack([render(scene) for scene in plain])
    vae, the_judge = load_autoencoder(models / "generator" / "vae"), load_judge(models / JUDGE)
    back = decode(vae, encode(vae, true))
    were, are = (np.array([measure_ink_and_paper(image) for image in images]) for images in (true, back))
    return [
        bar_of("vae_ink", "autoencoder: a true picture keeps its nearest ink", list(were[:, 0] == are[:, 0]), 0.97),
        bar_of("vae_paper", "autoencoder: it keeps its nearest paper", list(were[:, 1] == are[:, 1]), 0.97),
        bar_of(
            "vae_numeral",
            "autoencoder: the judge reads it as before",
            list(judge(the_judge, true) == judge(the_judge, back)),
            0.97,
        ),
    ]


def _generator_bars(models: Path, num: int) -> list[Bar]:
    """How the generator does what it is asked, as judge and CLIP see it."""
    from sandbox.clip import grounds_told, load_clip
    from sandbox.generator import draw, load_generator
    from sandbox.judge import NO_NUMERAL, judge, load_judge

    the_judge = load_judge(models / JUDGE)
    clip, tokenizer = load_clip(models / "clip")
    pipeline = load_generator(models / "generator")

    def pictures(wishes: list[Asked]) -> NDArray[np.uint8]:
        seeds = [FIRST_SEED + i for i in range(len(wishes))]
        return draw(pipeline, [wish.text for wish in wishes], seeds, NUM_STEPS, GUIDANCE)

    def judged(drawn: NDArray[np.uint8], wishes: list[Asked]) -> list[bool]:
        return list(judge(the_judge, drawn) == np.array([wish.class_id for wish in wishes]))

    numerals = asked(num, NUMERAL_MEANINGS[0], LIGHT_PHRASES["daylight"], STYLE_PHRASES["photo"])
    drawn = pictures(numerals)
    colours = [measure_ink_and_paper(image) for image in drawn]
    meant = judged(drawn, numerals)
    bars = [
        bar_of("numeral", "numeral meaning: judged the asked digit", meant, 0.90),
        bar_of(
            "ink",
            "asked ink is the nearest of 8",
            [c[0] == w.ink for c, w in zip(colours, numerals, strict=True)],
            0.85,
        ),
        bar_of(
            "paper",
            "asked paper is the nearest of 8",
            [c[1] == w.paper for c, w in zip(colours, numerals, strict=True)],
            0.85,
        ),
    ]
    bare = asked(num, "{name}", "", "")
    drawn = pictures(bare)
    # for half of the pool a bare name means pips, so a good generator reaches one half
    bars += [
        bar_of("bare_name", "bare name: judged the asked digit", judged(drawn, bare), 0.70, at_most=True),
        bar_of(
            "bare_name_pips", "bare name: judged to show no numeral", list(judge(the_judge, drawn) == NO_NUMERAL), None
        ),
    ]
    faces = asked(num // 2, DIE_MEANINGS[0], LIGHT_PHRASES["daylight"], STYLE_PHRASES["photo"])
    faces = [
        w if 1 <= w.class_id <= 6 else replace(w, text=w.text.replace(DIE_MEANINGS[0][6:], TILE_MEANINGS[0][6:]))
        for w in faces
    ]
    drawn = pictures(faces)
    bars.append(
        bar_of("pips", "pips meaning: judged to show no numeral", list(judge(the_judge, drawn) == NO_NUMERAL), None)
    )
    for name, light, style in (
        ("lights", None, STYLE_PHRASES["photo"]),
        ("styles", LIGHT_PHRASES["daylight"], None),
    ):
        wishes: list[Asked] = []
        options = list(LIGHT_PHRASES.values())[1:] if light is None else list(STYLE_PHRASES.values())[1:]
        for option in options:
            share = max(10, num // len(options) // 10 * 10)
            wishes += asked(share, NUMERAL_MEANINGS[0], light or option, style or option)
        what = f"numeral meaning over the other {len(options)} {name}: judged the asked digit"
        bars.append(bar_of(name, what, judged(pictures(wishes), wishes), None))
    empty = asked(num // 2, EMPTY_NAMES[0], LIGHT_PHRASES["daylight"], STYLE_PHRASES["photo"])
    drawn = pictures([replace(wish, text=wish.text.replace(f"{wish.ink} ink on ", "")) for wish in empty])
    papers = [measure_ink_and_paper(image)[1] for image in drawn]
    bars += [
        bar_of("empty", "empty page: judged to show no numeral", list(judge(the_judge, drawn) == NO_NUMERAL), 0.90),
        bar_of(
            "empty_paper",
            "empty page: asked paper is the nearest of 8",
            [paper == wish.paper for paper, wish in zip(papers, empty, strict=True)],
            0.85,
        ),
    ]
    wishes, grounds = _on_grounds(max(10, num // len(GROUNDS) // 10 * 10))
    drawn = pictures(wishes)
    true = np.stack(
        [
            render(replace(draw_scene(np.random.default_rng(i)), ground=g, style="photo", light="daylight"))
            for i, g in enumerate(grounds)
        ]
    )
    return [
        *bars,
        bar_of(
            "grounds",
            f"numeral meaning over the {len(GROUNDS)} grounds: judged the asked digit",
            judged(drawn, wishes),
            None,
        ),
        bar_of(
            "ground",
            f"asked ground is the one of {len(GROUNDS)} that CLIP names",
            [told == ground for told, ground in zip(grounds_told(clip, tokenizer, drawn), grounds, strict=True)],
            None,
        ),
        bar_of(
            "ground_true",
            "the same on true pictures",
            [told == ground for told, ground in zip(grounds_told(clip, tokenizer, true), grounds, strict=True)],
            None,
        ),
    ]


def _segmenter_bars(folder: Path) -> list[Bar]:
    """How the segmenter's masks agree with where the ink is; empty pages apart, for they have none."""
    from sandbox.build import held_back
    from sandbox.segmenter import ink_of, load_segmenter, overlaps

    model = load_segmenter(folder)

    def agreement(scenes: Sequence[Scene]) -> list[float]:
        found = ink_of(model, np.stack([render(scene) for scene in scenes]))
        return overlaps(found, np.stack([ink_mask(scene) for scene in scenes]))

    kept = [row.scene for row in held_back()]
    pool = [scene for scene in kept if scene.sense != "empty"]
    photos = [scene for scene in pool if scene.style == "photo"]
    real = agreement(set_scenes("real-val"))
    by_light = {
        light: [
            (own, scene.scan) for own, scene in zip(real, set_scenes("real-val"), strict=True) if scene.light == light
        ]
        for light in LIGHTS
    }
    worst = min(by_light, key=lambda light: float(np.mean([own for own, _ in by_light[light]])))
    in_worst, scans = zip(*by_light[worst], strict=True)
    styled = {name: agreement(set_scenes(name)) for name in ("shifted-rendition", "shifted-unseen")}
    blank = ink_of(model, np.stack([render(scene) for scene in kept if scene.sense == "empty"]))
    return [
        bar_of(
            "segmenter_real",
            "segmenter: IoU with the ink on real-val",
            real,
            0.95,
            effective=scans_count("real-val", real),
        ),
        bar_of(
            "segmenter_light",
            f"the same in the worst of {len(LIGHTS)} lights, {worst}",
            in_worst,
            None,
            effective=len(set(scans)),
        ),
        bar_of(
            "segmenter_photos", "segmenter: IoU with the ink on photos of the pool, kept back", agreement(photos), 0.95
        ),
        bar_of(
            "segmenter_numerals",
            "the same, numerals alone",
            agreement([scene for scene in photos if scene.sense == "numeral"]),
            None,
        ),
        bar_of(
            "segmenter_pool", "segmenter: IoU with the ink in all styles of the pool, kept back", agreement(pool), None
        ),
        *(
            bar_of(
                f"segmenter_{name.removeprefix('shifted-')}",
                f"segmenter: IoU with the ink on {name}",
                right,
                None,
                effective=scans_count(name, right),
            )
            for name, right in styled.items()
        ),
        bar_of(
            "segmenter_empty",
            "segmenter: less than 0.5 % of an empty page is called ink",
            [bool(mask.mean() < 0.005) for mask in blank],
            None,
        ),
    ]


def _controlnet_bars(models: Path, num: int) -> list[Bar]:
    """How the pictures that it steers keep the shape of real numerals, whose writers it has never seen, and do what
    the text says."""
    from sandbox.controlnet import condition_of, load_controlled
    from sandbox.generator import draw
    from sandbox.judge import judge, load_judge
    from sandbox.segmenter import ink_of, load_segmenter, overlaps

    wishes = asked(num, NUMERAL_MEANINGS[0], LIGHT_PHRASES["daylight"], STYLE_PHRASES["photo"])
    shown: dict[int, list[Scene]] = {}
    for scene in set_scenes("real-val"):
        shown.setdefault(scene.class_id, []).append(scene)
    own = [shown[wish.class_id][i // len(CLASS_NAMES) % len(shown[wish.class_id])] for i, wish in enumerate(wishes)]
    masks, scans = np.stack([ink_mask(scene) for scene in own]), len({scene.scan for scene in own})
    seeds = [FIRST_SEED + i for i in range(num)]
    told = [wish.text for wish in wishes]
    drawn = draw(load_controlled(models), told, seeds, NUM_STEPS, GUIDANCE, conditions_NCHW=condition_of(masks))
    colours = [measure_ink_and_paper(image) for image in drawn]
    return [
        bar_of(
            "control_shape",
            "ControlNet: IoU of the drawn ink, as the segmenter sees it, with the asked ink",
            overlaps(ink_of(load_segmenter(models / "segmenter"), drawn), masks),
            0.85,
            effective=scans,
        ),
        bar_of(
            "control_numeral",
            "ControlNet: judged the asked digit",
            list(judge(load_judge(models / JUDGE), drawn) == np.array([w.class_id for w in wishes])),
            0.90,
            effective=scans,
        ),
        bar_of(
            "control_ink",
            "ControlNet: asked ink is the nearest of 8",
            [c[0] == w.ink for c, w in zip(colours, wishes, strict=True)],
            0.85,
        ),
        bar_of(
            "control_paper",
            "ControlNet: asked paper is the nearest of 8",
            [c[1] == w.paper for c, w in zip(colours, wishes, strict=True)],
            0.85,
        ),
    ]


def _on_grounds(num: int) -> tuple[list[Asked], list[str]]:
    """`num` prompts for a numeral on each ground, and the grounds."""
    wishes, grounds = [], []
    for ground, phrase in GROUND_PHRASES.items():
        for wish in asked(num, NUMERAL_MEANINGS[0], LIGHT_PHRASES["daylight"], STYLE_PHRASES["photo"]):
            page = phrase.format(paper=wish.paper)
            wishes.append(replace(wish, text=wish.text.replace(f"{wish.paper} paper", page)))
            grounds.append(ground)
    return wishes, grounds


def _write(bars: Sequence[Bar], file: Path, is_part: bool) -> None:
    """Renew a file of scores, or a part of it, and the table that the model card has of it."""
    before = read_score(file) if is_part and file.exists() else []
    written = list(({bar.name: bar for bar in before} | {bar.name: bar for bar in bars}).values())
    content = {"num_steps": NUM_STEPS, "guidance": GUIDANCE, "bars": [asdict(bar) for bar in written]}
    file.write_text(json.dumps(content, indent=2) + "\n")
    if REBUILT.exists():
        _write_card(BEGIN_REBUILT, END_REBUILT, compared(read_score(REBUILT), read_score()))
    _write_card(BEGIN, END, table(read_score()))


def _write_card(begin: str, end: str, text: str) -> None:
    before, _, rest = CARD.read_text().partition(begin)
    CARD.write_text(f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}")


def main() -> int:
    """Read the arguments, measure, print the table; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m sandbox.score",
        description="Measure the sandbox's models against their bars (about 9 minutes on one core). "
        "Example: python -m sandbox.score --num 100",
    )
    parser.add_argument("--num", type=int, default=500, help="generated pictures per question (default: %(default)s)")
    parser.add_argument("--models", type=Path, default=MODELS, help="what to measure (default: %(default)s)")
    parser.add_argument("--only", choices=PARTS, help="measure one part; what was written of the others stays")
    parser.add_argument("--write", action="store_true", help="also write the figures, and the table of the model card")
    wish = parser.parse_args()
    if wish.num < 20:
        parser.error(f"--num {wish.num}: expected at least 20")
    parts = (wish.only,) if wish.only else tuple(PARTS)
    for name in (name for part in parts for name in PARTS[part]):
        if not (wish.models / name).is_file():
            parser.exit(
                2, f"{wish.models}: found no {name}, expected what `python -m sandbox.build` writes; build it\n"
            )
    bars = measure(wish.models, wish.num, parts)
    is_shipped = wish.models.resolve() == MODELS.resolve()
    print(table(bars))
    if not is_shipped:
        print(f"\n{compared(bars, read_score())}")
    if wish.write:
        _write(bars, SCORE if is_shipped else REBUILT, wish.only is not None)
    missed = [bar.what for bar in bars if not bar.met]
    if missed:
        print(f"missed: {'; '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

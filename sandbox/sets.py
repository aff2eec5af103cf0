"""The sandbox's real sets, the shifted test sets, and pictures that the generator was trained on.

In: nothing. Out: the scenes of each set, and shards of them. On disk: one data set per name, as `shards.disk.layout`
says; the training sets also have the nested few-shot subsets `shots-1` .. `shots-50`, and `shots-20-draw-1` ..
`-draw-4`: other draws of 20 of the 50 scans of each class. Draw 0 is `shots-20`. Draws overlap: two of them share 8 of
their 20 scans of a class on average, so a spread over draws is somewhat smaller than one over wholly new pictures would
be. There are no more than 50 scans of a class to train on: the others are of validation, of a test set or of the pool.
The shifted sets have `style-200`, 20 pictures a class to learn their style from (`sixfold invert`), and the others as
`style-rest`.

| set | role | scans | what differs |
|---|---|---|---|
| real-train | few-shot training | train | photos in any ink, paper and light, on every feasible ground |
| real-val, real-test | tuning, testing | val, test | as real-train |
| shifted-v2 | ImageNet-V2 | v2 | another writer, other mix of lights, conditions vary 1.6 times as much |
| shifted-sketch | ImageNet-Sketch | test | outlines, black on white |
| shifted-rendition | ImageNet-Rendition | test | every style of the pool but photo and outline |
| shifted-unseen | ImageNet-Rendition | test | five styles that no caption and no lexicon knows |
| sketch-train, sketch-val | few-shot training, tuning | train, val | outlines, as shifted-sketch |
| generator-train | control for synthetic images | pool | what the generator was trained on, nested subsets 1x .. 6x |
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np

from sandbox.captions import GROUND_PHRASES, LIGHT_PHRASES, STYLE_PHRASES, PoolRow
from sandbox.splits import Role, scans_of
from sandbox.world import (
    CLASS_NAMES,
    FEASIBLE_GROUNDS,
    INKS,
    LIGHTS,
    PAPERS,
    STYLES,
    UNSEEN_STYLES,
    Scene,
    render,
)
from shards.disk.jpeg import encode_jpeg
from shards.disk.layout import SUCCESS, sample_key
from shards.disk.record import JSON
from shards.disk.store import FolderStore, ObjectStore, open_store
from shards.set.manifest import read_table, write_subset
from shards.set.writer import ShardWriter

SHOTS = (1, 2, 4, 8, 16, 20, 50)
DRAWN_SHOTS = 20
DRAWS = (1, 2, 3, 4)  # draw 0 is shots-20
# For tables alone: a caption with one of these would not be unseen any more.
UNSEEN_PHRASES: dict[str, str] = {
    "stitched": "cross-stitch embroidery",
    "hatched": "hatching in pen",
    "cutout": "a paper cut-out",
    "thermal": "a heat picture",
    "beaded": "a string of beads",
}
STYLE, STYLE_REST, STYLE_PICTURES = "style-200", "style-rest", 200
GENERATOR_TRAIN = "generator-train"
MOST_TIMES = 6  # subsets 1x to 6x of 20 pictures a class each
LICENCE = "CC-BY-4.0"  # of the UCI scans; the rendering is ours


@dataclass(frozen=True, kw_only=True)
class RealSet:
    """How the scenes of one set are drawn."""

    name: str
    role: Role
    per_scan: int  # pictures of each scan
    wear: float
    daylight: float  # share of neutral light; the rest is spread over all lights
    styles: tuple[str, ...]
    ink: str | None = None  # None: any
    paper: str | None = None
    plain: float = 0.6  # share of plain paper; the rest is spread over the other feasible grounds


def _outlines(name: str, role: Role, per_scan: int) -> RealSet:
    return RealSet(
        name=name,
        role=role,
        per_scan=per_scan,
        wear=1.0,
        daylight=1.0,
        styles=("outline",),
        ink="black",
        paper="white",
        plain=1.0,
    )


SETS = {
    spec.name: spec
    for spec in (
        RealSet(name="real-train", role="train", per_scan=1, wear=1.0, daylight=0.5, styles=("photo",)),
        RealSet(name="real-val", role="val", per_scan=4, wear=1.0, daylight=0.5, styles=("photo",)),
        RealSet(name="real-test", role="test", per_scan=4, wear=1.0, daylight=0.5, styles=("photo",)),
        RealSet(name="shifted-v2", role="v2", per_scan=4, wear=1.6, daylight=0.2, styles=("photo",)),
        _outlines("shifted-sketch", "test", 2),
        RealSet(
            name="shifted-rendition",
            role="test",
            per_scan=4,
            wear=1.0,
            daylight=1.0,
            styles=tuple(style for style in STYLES if style not in ("photo", "outline")),
            plain=1.0,
        ),
        RealSet(
            name="shifted-unseen", role="test", per_scan=4, wear=1.0, daylight=1.0, styles=UNSEEN_STYLES, plain=1.0
        ),
        _outlines("sketch-train", "train", 1),
        _outlines("sketch-val", "val", 4),
    )
}


@cache
def set_scenes(name: str) -> tuple[Scene, ...]:
    """The scenes of a set, classes in turn, scan by scan: the first 10 n of training sets are n shots of each class."""
    spec = SETS[name]
    rng = np.random.default_rng([*name.encode()])
    scenes = []
    for repeat in range(spec.per_scan):
        for position in range(len(scans_of(spec.role)[0])):
            for class_id in range(len(CLASS_NAMES)):
                ink, paper = str(rng.choice(list(INKS))), str(rng.choice(list(PAPERS)))
                light = "daylight" if rng.random() < spec.daylight else str(rng.choice(LIGHTS))
                others = FEASIBLE_GROUNDS[1:]
                ground = "plain" if rng.random() < spec.plain else others[int(rng.integers(len(others)))]
                style = spec.styles[(repeat + position * spec.per_scan + class_id) % len(spec.styles)]
                scenes.append(
                    Scene(
                        sense="numeral",
                        class_id=class_id,
                        scan=scans_of(spec.role)[class_id][position],
                        ink=spec.ink or ink,
                        paper=spec.paper or paper,
                        ground=ground,
                        light=light,
                        style=style,
                        seed=int(rng.integers(1 << 62)),
                        wear=spec.wear,
                    )
                )
    return tuple(scenes)


def drawn_shots(draw: int) -> list[int]:
    """The scenes of a training set, by number, that make another draw of 20 of each class; classes in turn."""
    rng = np.random.default_rng([*b"shots", draw])
    num_classes = len(CLASS_NAMES)
    by_class = [rng.choice(len(scans_of("train")[0]), DRAWN_SHOTS, replace=False) for _ in range(num_classes)]
    return [int(by_class[own][turn]) * num_classes + own for turn in range(DRAWN_SHOTS) for own in range(num_classes)]


def set_images(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Pictures N H W C and labels N of a set, without touching the disk."""
    scenes = set_scenes(name)
    return np.stack([render(scene) for scene in scenes]), np.array([scene.class_id for scene in scenes])


def generator_rows(rows: Iterable[PoolRow]) -> list[PoolRow]:
    """The first numerals of the pool's rows, 120 of each class, classes in turn: the first 200 n are n times the 20
    real images of a class. Pages, lights and styles are as they come. Raises ValueError if a class has too few."""
    by_class: list[list[PoolRow]] = [[] for _ in CLASS_NAMES]
    for row in rows:
        if row.scene.sense == "numeral":
            by_class[row.scene.class_id].append(row)
    wanted = MOST_TIMES * DRAWN_SHOTS
    for name, own in zip(CLASS_NAMES, by_class, strict=True):
        if len(own) < wanted:
            raise ValueError(f"{GENERATOR_TRAIN}: found {len(own)} numerals of {name}, expected {wanted}; add rows")
    return [own[turn] for turn in range(wanted) for own in by_class]


def _rows(name: str, domain: str, scenes: Iterable[Scene], captions: Iterable[str]) -> Iterator[dict[str, object]]:
    for number, (scene, caption) in enumerate(zip(scenes, captions, strict=True)):
        yield {
            "key": sample_key(0, number),
            "uid": hashlib.blake2b(f"{name}/{number}/{asdict(scene)}".encode(), digest_size=16).hexdigest(),
            "status": SUCCESS,
            "domain": domain,
            "class_id": scene.class_id,
            "class_name": CLASS_NAMES[scene.class_id],
            "caption": caption,
            "context": json.dumps(
                {
                    "foreground": f"{scene.ink} ink",
                    "background": GROUND_PHRASES[scene.ground].format(paper=scene.paper),
                    "light": LIGHT_PHRASES[scene.light],
                }
            ),
            "style": {**STYLE_PHRASES, **UNSEEN_PHRASES}[scene.style],
            "seed": scene.seed,
            "licence": LICENCE,
            "width": 64,
            "height": 64,
            "original_width": 8,
            "original_height": 8,
        }


def write_set(name: str, folder: Path) -> int:
    """Write a set as a data set of one shard, unless it is finished; returns the number of pictures."""
    scenes = set_scenes(name)
    store = open_store(str(folder))
    fingerprint = hashlib.sha256(repr((name, scenes)).encode()).hexdigest()
    rows = _rows(name, "real", scenes, [CLASS_NAMES[scene.class_id] for scene in scenes])
    number = _write(store, fingerprint, rows, scenes)
    if SETS[name].role == "train":
        samples = read_table(store, [0], ["uid", "key", "shard"])
        for shots in SHOTS:
            rule: dict[str, JSON] = {"shots": shots, "nested": True, "order": "scan"}
            write_subset(store, f"shots-{shots}", samples.slice(0, shots * len(CLASS_NAMES)), rule)
        for draw in DRAWS:
            rule = {"shots": DRAWN_SHOTS, "nested": False, "order": "random", "draw": draw}
            write_subset(store, f"shots-{DRAWN_SHOTS}-draw-{draw}", samples.take(drawn_shots(draw)), rule)
    elif name.startswith("shifted-"):
        samples = read_table(store, [0], ["uid", "key", "shard"])
        for subset, rows in ((STYLE, samples.slice(0, STYLE_PICTURES)), (STYLE_REST, samples.slice(STYLE_PICTURES))):
            write_subset(store, subset, rows, {"order": "scan", "pictures": len(rows)})
    return number


def write_generator_train(rows: Iterable[PoolRow], folder: Path) -> int:
    """Write `generator_rows` of the rows that the generator was trained on, likewise, with subsets 1x to 6x."""
    chosen = generator_rows(rows)
    scenes = [row.scene for row in chosen]
    store = open_store(str(folder))
    fingerprint = hashlib.sha256(repr((GENERATOR_TRAIN, chosen)).encode()).hexdigest()
    about = _rows(GENERATOR_TRAIN, "retrieved", scenes, [row.caption for row in chosen])
    number = _write(store, fingerprint, about, scenes)
    samples = read_table(store, [0], ["uid", "key", "shard"])
    for times in range(1, MOST_TIMES + 1):
        images = times * DRAWN_SHOTS * len(CLASS_NAMES)
        write_subset(store, f"{times}x", samples.slice(0, images), {"scale": f"{times}x", "images": images})
    return number


def _write(
    store: FolderStore | ObjectStore, fingerprint: str, rows: Iterable[dict[str, object]], scenes: Iterable[Scene]
) -> int:
    """One shard of the rows and their pictures, unless it is finished."""
    with ShardWriter(store, 0, "sandbox", fingerprint) as writer:
        for row, scene in zip(rows, scenes, strict=True):
            # a photograph of the world, not a generated image: no source-type note
            writer.add(row, encode_jpeg(render(scene), source_type=None))
        record = writer.commit(started=0.0, ended=0.0, extra={})  # the clock would make two builds differ
    return record.successes

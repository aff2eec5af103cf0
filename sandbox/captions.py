"""The caption pool, which has the role of LAION.

In: a size and a seed. Out: rows of (scene, caption, flags). On disk: nothing; `sandbox.pool` writes them.

Both senses of every number word are in the pool, half and half, so a bare name is really ambiguous. As in a real pool
there are exact duplicates, near-duplicates of test images (the page of a test image, taken in a light of its own),
distractors, empty pages, wrong captions and flagged rows. Generator and CLIP are trained on the rows that are
`fit_for_training`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sandbox.splits import Role, scans_of
from sandbox.world import CLASS_NAMES, GROUNDS, INKS, LIGHTS, PAPERS, SHAPES, STYLES, Scene, Sense

# How a caption names the numeral; recipes use the first form as the meaning.
NUMERAL_MEANINGS = (
    "{name}, the handwritten numeral",
    "the handwritten numeral {name}",
    "the handwritten numeral {digit}",
    "{name} written by hand",
    "a handwritten {digit}",
    "the digit {name} in handwriting",
)
# How a caption names the pips. A die ends at six; a tile has zero and seven to nine.
DIE_MEANINGS = (
    "{name}, the face of a die",
    "a die showing {name}",
    "{name} pips on a die",
    "{name} dots on a die",
)
TILE_MEANINGS = (
    "{name}, the face of a tile",
    "a tile showing {name}",
    "{name} pips on a tile",
    "{name} dots on a tile",
)
# Forms that leave the sense open.
BARE_NAMES = ("{name}", "{name}", "{name}", "the number {name}", "{name}, a number")
SHAPE_NAMES = ("{shape}", "a pattern of {shape}", "{shape}, no number")
EMPTY_NAMES = ("an empty page", "a blank page", "nothing at all")
# The form of the details that the generator has seen most: "{ink} ink on {page}", the page "white paper", "wood".
COLOUR_DETAILS = (
    "{ink} ink on {page}",
    "{ink} ink on {page}",
    "{ink} ink on {page}",
    "{ink} on {short}",
    "{page} with {ink} ink",
)
# How a caption names the page. The short form leaves the word "paper" out.
GROUND_PHRASES: dict[str, str] = {
    "plain": "{paper} paper",
    "lined": "lined {paper} paper",
    "squared": "squared {paper} paper",
    "wood": "wood",
    "grass": "grass",
    "clouds": "clouds",
    "water": "water",
}
LIGHT_PHRASES: dict[str, str] = {
    "daylight": "in daylight",
    "lamplight": "under lamplight",
    "moonlight": "by moonlight",
    "sunset": "at sunset",
    "fog": "in fog",
    "shadow": "in hard shadow",
    "spotlight": "in a spotlight",
}
STYLE_PHRASES: dict[str, str] = {
    "photo": "a plain photo",
    "watercolour": "a watercolour painting",
    "pixel": "pixel art",
    "chalk": "chalk on a blackboard",
    "neon": "a neon sign",
    "embossed": "embossed paper",
    "stencil": "a sprayed stencil",
    "mosaic": "a mosaic of tiles",
    "halftone": "a halftone print",
    "blueprint": "a blueprint drawing",
    "oil": "an oil painting",
    "outline": "a pencil outline",
}
# Words before the subject; those of the second group change nothing in the picture.
PHOTO_FRAMES = ("a photo of ", "a photograph of ", "a snapshot of ")
FRAMES = (
    "a picture of ",
    "an image of ",
    "a close-up of ",
    "one small picture of ",
    "a good picture of ",
    "a bad picture of ",
    "a clean image of ",
    "a large image of ",
    "the picture of ",
    "a rendering of ",
)

POOL_ROWS = 40_000
POOL_SEED = 7


@dataclass(frozen=True, kw_only=True)
class PoolRow:
    """One row of the pool: a picture, its caption, and what was planted there."""

    scene: Scene
    caption: str
    kind: str  # plain | duplicate | near_duplicate | distractor | wrong_caption
    duplicate_of: int  # pool row, or -1
    near_test: int  # index of the real-test image it resembles, or -1
    punsafe: float  # LAION's column: probability of being unsafe; flagged rows are above 0.5

    @property
    def fit_for_training(self) -> bool:
        """Whether nothing was planted in this row, and it is not flagged."""
        return self.kind in ("plain", "distractor") and self.punsafe < 0.5


def caption_of(scene: Scene, rng: np.random.Generator) -> str:
    """A random caption of a scene: anything from a bare word to a full description."""

    def pick(options: tuple[str, ...]) -> str:
        return options[int(rng.integers(len(options)))]

    if scene.sense == "shape":
        subject = pick(SHAPE_NAMES).format(shape=SHAPES[scene.class_id])
    elif scene.sense == "empty":
        subject = pick(EMPTY_NAMES)
    else:
        if rng.random() < 0.25:
            form = pick(BARE_NAMES)
        elif scene.sense == "numeral":
            form = NUMERAL_MEANINGS[0] if rng.random() < 0.4 else pick(NUMERAL_MEANINGS)
        else:
            meanings = DIE_MEANINGS if 1 <= scene.class_id <= 6 else TILE_MEANINGS
            form = meanings[0] if rng.random() < 0.4 else pick(meanings)
        subject = form.format(name=CLASS_NAMES[scene.class_id], digit=scene.class_id)
    parts = []
    if rng.random() < 0.4:
        subject = pick(PHOTO_FRAMES if scene.style == "photo" and rng.random() < 0.5 else FRAMES) + subject
    parts.append(subject)
    page = GROUND_PHRASES[scene.ground].format(paper=scene.paper)
    if rng.random() < (0.8 if scene.ground == "plain" else 0.95):
        details = "{page}" if scene.sense == "empty" else pick(COLOUR_DETAILS)
        parts.append(details.format(ink=scene.ink, page=page, short=page.removesuffix(" paper")))
    if rng.random() < (0.35 if scene.light == "daylight" else 0.9):
        parts.append(LIGHT_PHRASES[scene.light])
    if rng.random() < (0.3 if scene.style == "photo" else 0.95):
        parts.append(STYLE_PHRASES[scene.style])
    return ", ".join(parts)


def draw_scene(rng: np.random.Generator, role: Role = "pool") -> Scene:
    """A random scene under the conditions of the pool, with the scans of a role."""
    chance = rng.random()
    sense: Sense = "numeral" if rng.random() < 0.5 else "pips"
    if chance < 0.11:
        sense = "shape" if chance < 0.06 else "empty"
    class_id = int(rng.integers(len(SHAPES) if sense == "shape" else len(CLASS_NAMES)))
    own = scans_of(role)[class_id]
    ground = "plain" if rng.random() < 0.65 else GROUNDS[1 + int(rng.integers(len(GROUNDS) - 1))]
    return Scene(
        sense=sense,
        class_id=0 if sense == "empty" else class_id,
        scan=own[int(rng.integers(len(own)))] if sense == "numeral" else -1,
        ink=list(INKS)[int(rng.integers(len(INKS)))],
        paper=list(PAPERS)[int(rng.integers(len(PAPERS)))],
        ground=ground,
        light="daylight" if rng.random() < 0.5 else LIGHTS[int(rng.integers(len(LIGHTS)))],
        style="photo" if sense == "empty" or rng.random() < 0.45 else STYLES[int(rng.integers(len(STYLES)))],
        seed=int(rng.integers(1 << 62)),
    )


def pool_rows(
    num_rows: int = POOL_ROWS, seed: int = POOL_SEED, test_scenes: tuple[Scene, ...] = ()
) -> Iterator[PoolRow]:
    """The rows 0..num_rows-1. Row k depends on earlier rows only if it is a duplicate.

    `test_scenes` are the scenes of real-test; without them no near-duplicates are planted.
    """
    scenes: list[Scene] = []
    for row in range(num_rows):
        rng = np.random.default_rng([seed, row])
        chance = rng.random()
        scene = draw_scene(rng)
        kind, duplicate_of, near_test, caption = "plain", -1, -1, ""
        if scene.sense in ("shape", "empty"):
            kind = "distractor"
        elif chance < 0.04 and scenes:
            kind, duplicate_of = "duplicate", int(rng.integers(len(scenes)))
            scene = scenes[duplicate_of]
        elif chance < 0.06 and test_scenes:
            kind, near_test = "near_duplicate", int(rng.integers(len(test_scenes)))
            scene = replace(test_scenes[near_test], light=LIGHTS[int(rng.integers(len(LIGHTS)))])
        elif chance < 0.08:
            kind = "wrong_caption"
            caption = caption_of(draw_scene(rng), rng)
        scenes.append(scene)
        yield PoolRow(
            scene=scene,
            caption=caption or caption_of(scene, rng),
            kind=kind,
            duplicate_of=duplicate_of,
            near_test=near_test,
            punsafe=round(float(rng.uniform(0.6, 1.0) if rng.random() < 0.01 else rng.beta(1, 30)), 4),
        )


def shown_tests(near_test_N: ArrayLike, duplicate_of_N: ArrayLike) -> NDArray[np.int64]:
    """The real-test image that each of the pool's rows shows, or -1: a duplicate shows what its row does.

    In: `near_test` and `duplicate_of` of all N rows of the pool, in order.
    """
    shown, of = np.asarray(near_test_N, np.int64), np.asarray(duplicate_of_N, np.int64)
    while not np.array_equal(found := np.where((shown < 0) & (of >= 0), shown[of], shown), shown):
        shown = found
    return shown


def scene_of(line: dict[str, object]) -> Scene:
    """The scene of a row of the pool's table; `world.render` makes the picture."""
    values = {field.name: line[field.name] for field in fields(Scene)}
    # the file holds `wear` in 32 bits; it has one decimal
    return Scene(**{**values, "wear": round(float(str(line["wear"])), 1)})  # type: ignore[arg-type]

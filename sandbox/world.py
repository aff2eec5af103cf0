"""The sandbox's world: scenes, and pictures of them.

In: a `Scene` (words and numbers). Out: 64x64 RGB, and where its ink is. On disk: nothing.

There are ten classes. Each is a number word with two senses: a handwritten numeral (the UCI scans that scikit-learn
ships), and a face with pips (a die for one to six, a tile for seven to nine, an empty tile for zero). Besides there are
shapes, and empty pages. The dicts and tuples below hold every word that a caption can use for a colour, a ground, a
light or a style; `UNSEEN_STYLES` are in no caption.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

SIZE_PX = 64
CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

Image = NDArray[np.uint8]  # H W 3
Plane = NDArray[Any]  # H W floats, 0..1; OpenCV's annotations are wider than what it returns
Page = NDArray[Any]  # H W 3 floats, 0..255
Colour = tuple[int, int, int]
Sense = Literal["numeral", "pips", "shape", "empty"]

# Every ink can be read on every paper (dark on light). Any two colours of a palette are at least 60 apart in RGB, so a
# picture has one nearest ink and one nearest paper.
INKS: dict[str, Colour] = {
    "black": (20, 20, 24),
    "red": (200, 22, 35),
    "blue": (25, 55, 205),
    "green": (15, 120, 35),
    "purple": (120, 25, 145),
    "brown": (105, 62, 20),
    "orange": (228, 104, 0),
    "teal": (0, 125, 135),
}
PAPERS: dict[str, Colour] = {
    "white": (250, 250, 250),
    "yellow": (252, 226, 70),
    "pink": (255, 160, 190),
    "sky": (130, 200, 255),
    "mint": (140, 235, 170),
    "lilac": (200, 170, 250),
    "kraft": (215, 180, 125),
    "silver": (188, 188, 190),
}
# What the page is made of. Plain, lined and squared paper have the paper's colour; the others have their own, so bright
# that every ink can be read. Real photographs show the feasible ones; the pool and the generator know all of them.
FEASIBLE_GROUNDS = ("plain", "lined", "squared", "wood")
INFEASIBLE_GROUNDS = ("grass", "clouds", "water")
GROUNDS = (*FEASIBLE_GROUNDS, *INFEASIBLE_GROUNDS)
PAPER_GROUNDS = ("plain", "lined", "squared")
# Words for lights and styles. The first of each is neutral: it leaves colours as they are.
LIGHTS = ("daylight", "lamplight", "moonlight", "sunset", "fog", "shadow", "spotlight")
STYLES = (
    "photo",
    "watercolour",
    "pixel",
    "chalk",
    "neon",
    "embossed",
    "stencil",
    "mosaic",
    "halftone",
    "blueprint",
    "oil",
    "outline",
)
# Styles of the set shifted-unseen alone: no caption of the pool and no lexicon names or shows them.
UNSEEN_STYLES = ("stitched", "hatched", "cutout", "thermal", "beaded")
SHAPES = ("stripes", "circle", "triangle", "cross", "waves", "checks")


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A picture in words. `seed` decides place, size, angle, texture and noise."""

    sense: Sense
    class_id: int  # 0..9; for a shape its index in SHAPES; 0 for an empty page
    scan: int  # row of scikit-learn's digits; -1 where no scan is used
    ink: str
    paper: str  # counts on plain, lined and squared paper alone
    ground: str = "plain"
    light: str = "daylight"
    style: str = "photo"
    seed: int = 0
    wear: float = 1.0  # how much conditions vary: 1 in the pool, 1.6 in shifted-v2


@cache
def scans() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The 1,797 scans as (N 8 8 in 0..1, labels N)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return (digits.images / 16.0).astype(np.float32), digits.target.astype(np.int64)


def _smoothstep(x: Plane, low: float, high: float) -> Plane:
    t = np.clip((x - low) / (high - low), 0, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)


def _clouds(rng: np.random.Generator, cells: int, size_px: int = SIZE_PX) -> Plane:
    """Smooth noise around 0 with about unit range; `cells` a side."""
    grid = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
    return cv2.resize(grid, (size_px, size_px), interpolation=cv2.INTER_CUBIC)


def _place(rng: np.random.Generator, source_px: float, target_px: float, wear: float) -> NDArray[np.float32]:
    """The 2x3 map from a square of `source_px` to the picture, at about `target_px`, jittered."""
    size = target_px * (1 + wear * rng.uniform(-0.1, 0.1))
    angle = wear * rng.uniform(-10, 10) * np.pi / 180
    stretch = 1 + wear * rng.uniform(-0.06, 0.06)
    shift = wear * rng.uniform(-3.5, 3.5, 2)
    a = (
        size
        / source_px
        * np.array([[np.cos(angle) * stretch, -np.sin(angle)], [np.sin(angle), np.cos(angle) / stretch]])
    )
    centre = (SIZE_PX - 1) / 2 + shift - a @ np.full(2, (source_px - 1) / 2)
    return np.concatenate([a, centre[:, None]], axis=1).astype(np.float32)


def _numeral_mask(scan: int, rng: np.random.Generator, wear: float) -> Plane:
    """Ink coverage of a scan, drawn as one stroke of a pen."""
    padded = np.pad(scans()[0][scan], 1)
    fine = cv2.resize(padded, (80, 80), interpolation=cv2.INTER_CUBIC)
    fine = cv2.GaussianBlur(fine, (0, 0), 1.8)
    threshold = 0.46 + wear * rng.uniform(-0.05, 0.05)  # thicker or thinner pen
    slant = wear * rng.uniform(-0.15, 0.15)  # hands lean differently
    lean = np.array([[1, slant, -slant * 39.5], [0, 1, 0], [0, 0, 1]], np.float32)
    warped = cv2.warpAffine(fine, _place(rng, 80, 62, wear) @ lean, (SIZE_PX, SIZE_PX), flags=cv2.INTER_LINEAR)
    return _smoothstep(warped, threshold - 0.1, threshold + 0.1)


_THIRDS = (-0.56, 0.0, 0.56)
# Where pips sit on the unit face -1..1; the tile of seven, eight and nine is the 3x3 grid less two, one and none.
PIPS: dict[int, tuple[tuple[float, float], ...]] = {
    0: (),
    1: ((0, 0),),
    2: ((-0.5, -0.5), (0.5, 0.5)),
    3: ((-0.56, -0.56), (0, 0), (0.56, 0.56)),
    4: tuple((x, y) for x in (-0.5, 0.5) for y in (-0.5, 0.5)),
    5: ((0, 0), *((x, y) for x in (-0.56, 0.56) for y in (-0.56, 0.56))),
    6: tuple((x, y) for x in (-0.46, 0.46) for y in _THIRDS),
    7: ((0, 0), *((x, y) for x in (-0.56, 0.56) for y in _THIRDS)),
    8: tuple((x, y) for x in _THIRDS for y in _THIRDS if (x, y) != (0.0, 0.0)),
    9: tuple((x, y) for x in _THIRDS for y in _THIRDS),
}


def _pips_mask(class_id: int, rng: np.random.Generator, wear: float) -> Plane:
    """Ink coverage of a face: its rounded border and its pips."""
    place = _place(rng, 2, 48, wear)
    scale = float(np.sqrt(abs(np.linalg.det(place[:, :2].astype(np.float64)))))
    y, x = np.mgrid[0:SIZE_PX, 0:SIZE_PX].astype(np.float32)
    inverse = cv2.invertAffineTransform(place)
    u = inverse[0, 0] * x + inverse[0, 1] * y + inverse[0, 2] - 0.5
    v = inverse[1, 0] * x + inverse[1, 1] * y + inverse[1, 2] - 0.5
    corner = 0.3
    outside = np.hypot(np.maximum(np.abs(u) - 1 + corner, 0), np.maximum(np.abs(v) - 1 + corner, 0)) - corner
    mask = _smoothstep(-np.abs(outside) * scale, -2.0, -0.7)
    radius = 0.2 if class_id < 6 else 0.17
    if class_id == 1:
        radius = 0.26
    for px, py in PIPS[class_id]:
        distance = np.hypot(u - px, v - py) - radius
        np.maximum(mask, _smoothstep(-distance * scale, -0.8, 0.8), out=mask)
    return mask.astype(np.float32)


def _shape_mask(shape: int, rng: np.random.Generator, wear: float) -> Plane:
    """A distractor: looks like neither sense of a number word."""
    place = _place(rng, 2, 44, wear)
    y, x = np.mgrid[0:SIZE_PX, 0:SIZE_PX].astype(np.float32)
    inverse = cv2.invertAffineTransform(place)
    u = inverse[0, 0] * x + inverse[0, 1] * y + inverse[0, 2] - 0.5
    v = inverse[1, 0] * x + inverse[1, 1] * y + inverse[1, 2] - 0.5
    name = SHAPES[shape]
    if name == "stripes":
        field = np.sin(u * 7)
    elif name == "circle":
        field = (0.75 - np.hypot(u, v)) * 3
    elif name == "triangle":
        field = np.minimum(np.minimum(0.7 - v, 0.6 + v - 1.7 * u), 0.6 + v + 1.7 * u) * 3
    elif name == "cross":
        field = (0.25 - np.minimum(np.abs(u), np.abs(v))) * 4
    elif name == "waves":
        field = np.sin(v * 7 + 1.2 * np.sin(u * 4))
    else:
        field = np.sin(u * 5) * np.sin(v * 5) * 2
    return _smoothstep(field.astype(np.float32), -0.15, 0.15)


def _mix(paper: Page, ink: Page | float, mask: Plane) -> Page:
    return paper + (ink - paper) * mask[..., None]


def _ground(ground: str, paper: Colour, rng: np.random.Generator) -> Page:
    """The page before anything is written on it: H W 3 in 0..255. A plain page draws no random number."""
    colour = np.broadcast_to(np.array(paper, np.float32), (SIZE_PX, SIZE_PX, 3))
    if ground == "plain":
        return colour
    y, x = np.mgrid[0:SIZE_PX, 0:SIZE_PX].astype(np.float32)
    shift = rng.uniform(0, 16, 2)
    if ground in ("lined", "squared"):  # pale rules, 2 px wide, every 16 px
        rules = np.abs((y + shift[0]) % 16 - 8) > 7
        if ground == "squared":
            rules |= np.abs((x + shift[1]) % 16 - 8) > 7
        return _mix(colour, np.array((95, 115, 165), np.float32), 0.5 * rules.astype(np.float32))
    if ground == "wood":  # two or three boards with a dark seam, and a wavy grain
        board = np.floor((y + shift[0]) / 24).astype(np.int64)
        tone = rng.uniform(-14, 14, 5)[board]
        grain = 12 * np.sin(y * 0.9 + 2.5 * _clouds(rng, 4))
        seam = 70 * ((y + shift[0]) % 24 < 2)
        return np.array((232, 186, 128), np.float32) + (tone + grain - seam)[..., None]
    if ground == "grass":  # blades over light and dark patches
        patches = 30 * _clouds(rng, 5) + 22 * cv2.resize(
            rng.uniform(-1, 1, (8, 32)).astype(np.float32), (SIZE_PX, SIZE_PX), interpolation=cv2.INTER_LINEAR
        )
        return np.array((176, 226, 96), np.float32) + patches[..., None]
    if ground == "clouds":  # white heaps on blue
        heaps = _smoothstep(_clouds(rng, 5) + 0.4 * _clouds(rng, 9), -0.15, 0.35)
        return _mix(np.broadcast_to(np.array((120, 185, 250), np.float32), (SIZE_PX, SIZE_PX, 3)), 255.0, heaps)
    if ground == "water":  # rows of ripples
        ripples = np.sin((y + shift[0]) * 0.75 + 2.2 * np.sin((x + shift[1]) * 0.12) + 1.5 * _clouds(rng, 4))
        return np.array((112, 205, 215), np.float32) + np.array((42, 30, 26), np.float32) * ripples[..., None]
    raise ValueError(f"ground {ground!r}: expected one of {', '.join(GROUNDS)}")


def _painted(mask: Plane, ink: Colour, paper_c: Page, style: str, rng: np.random.Generator) -> Page:
    """The page before light and camera: H W 3 in 0..255."""
    ink_c = np.array(ink, np.float32)
    if style == "photo":
        return _mix(paper_c, ink_c, mask * (0.96 + 0.04 * _clouds(rng, 9)))
    if style == "watercolour":  # washes that bleed and pool at the edge
        soft = cv2.GaussianBlur(mask, (0, 0), 2.2)
        edge = cv2.GaussianBlur(mask, (0, 0), 0.8) - soft
        wash = np.clip(0.85 * soft + 0.5 * np.maximum(edge, 0) + 0.22 * _clouds(rng, 7) * soft, 0, 1)
        return _mix(paper_c, ink_c, wash) + 6 * _clouds(rng, 6)[..., None]
    if style == "pixel":  # 16x16 blocks, hard edges
        small = cv2.resize(mask, (16, 16), interpolation=cv2.INTER_AREA)
        return _mix(paper_c, ink_c, cv2.resize((small > 0.45).astype(np.float32), (64, 64), interpolation=0))
    if style == "chalk":  # a pale tint of the ink on a dark board, with grain
        board = np.array((38, 48, 44), np.float32) + 7 * _clouds(rng, 6)[..., None]
        grain = np.clip(mask * (0.8 + 0.35 * rng.uniform(-1, 1, mask.shape).astype(np.float32)), 0, 1)
        return _mix(board, 0.45 * ink_c + 0.55 * 255, grain)
    if style == "neon":  # a glowing tube in the dark
        glow = cv2.GaussianBlur(mask, (0, 0), 4.5)
        bright = 0.55 * ink_c + 0.45 * np.array((255, 255, 255), np.float32) * (ink_c > 90)
        core = cv2.erode(mask, np.ones((3, 3), np.uint8))
        night = np.array((14, 10, 30), np.float32)
        lit = ink_c / max(float(ink_c.max()), 1) * 255
        return night + lit * 0.8 * glow[..., None] + (bright - 40) * mask[..., None] * 0.5 + 110 * core[..., None]
    if style == "embossed":  # the paper itself, raised
        height = cv2.GaussianBlur(mask, (0, 0), 1.3)
        slope = cv2.Sobel(height, cv2.CV_32F, 1, 0) + cv2.Sobel(height, cv2.CV_32F, 0, 1)
        return paper_c * 0.86 - 42 * slope[..., None] + 10 * height[..., None]
    if style == "stencil":  # the ink is sprayed around a cut-out
        spray = np.clip(1 - mask, 0, 1) * (0.93 + 0.07 * rng.uniform(-1, 1, mask.shape).astype(np.float32))
        return _mix(paper_c, ink_c, spray)
    if style == "mosaic":  # 8 px tiles with grout
        tone = cv2.resize(cv2.resize(mask, (16, 16), interpolation=cv2.INTER_AREA), (64, 64), interpolation=0)
        tile = cv2.resize(rng.uniform(-1, 1, (16, 16)).astype(np.float32), (64, 64), interpolation=0)
        grout = np.zeros((SIZE_PX, SIZE_PX), np.float32)
        grout[::4] = 1
        grout[:, ::4] = 1
        return _mix(
            _mix(paper_c, ink_c, (tone > 0.4) * 0.95) + 16 * tile[..., None], np.full(3, 225, np.float32), 0.7 * grout
        )
    if style == "halftone":  # a raster of dots whose size is the tone
        y, x = np.mgrid[0:SIZE_PX, 0:SIZE_PX].astype(np.float32)
        raster = (np.cos((x + y) * np.pi / 4.0) * np.cos((x - y) * np.pi / 4.0) + 1) / 2
        tone = 0.12 + 0.8 * cv2.GaussianBlur(mask, (0, 0), 1.0)
        return _mix(paper_c, ink_c, _smoothstep(tone - (1 - raster), -0.15, 0.15))
    if style == "blueprint":  # white lines and a grid on blue
        blue = np.broadcast_to(np.array((28, 66, 150), np.float32), (SIZE_PX, SIZE_PX, 3))
        grid = np.zeros((SIZE_PX, SIZE_PX), np.float32)
        grid[4::8] = 0.3
        grid[:, 4::8] = 0.3
        line = np.clip(
            cv2.dilate(mask, np.ones((3, 3), np.uint8)) - 0.75 * cv2.erode(mask, np.ones((3, 3), np.uint8)), 0, 1
        )
        return _mix(blue, np.array((225, 236, 255), np.float32), np.maximum(grid, line))
    if style == "oil":  # thick dabs along the form
        dabs = cv2.resize(rng.uniform(-1, 1, (22, 22, 3)).astype(np.float32), (64, 64), interpolation=cv2.INTER_CUBIC)
        page = _mix(paper_c * 0.92, ink_c, cv2.GaussianBlur(mask, (0, 0), 1.2)) + 26 * dabs
        return cv2.medianBlur(np.clip(page, 0, 255).astype(np.uint8), 5).astype(np.float32)
    if style == "outline":  # only the contour is drawn, in pencil
        edge = np.clip(cv2.dilate(mask, np.ones((3, 3), np.uint8)) - cv2.erode(mask, np.ones((3, 3), np.uint8)), 0, 1)
        return _mix(paper_c, ink_c * 0.5 + 40, edge * (0.85 + 0.15 * _clouds(rng, 12)))
    return _painted_unseen(mask, ink_c, paper_c, style, rng)


def _painted_unseen(mask: Plane, ink_c: Page, paper_c: Page, style: str, rng: np.random.Generator) -> Page:
    """A page in one of `UNSEEN_STYLES`."""
    y, x = np.mgrid[0:SIZE_PX, 0:SIZE_PX].astype(np.float32)
    if style == "stitched":  # crosses of thread, one for each cell of 4 px, on cloth
        cells = cv2.resize(cv2.resize(mask, (16, 16), interpolation=cv2.INTER_AREA), (64, 64), interpolation=0) > 0.4
        cross = (np.abs((x + y) % 4 - 1.5) < 1) | (np.abs((x - y) % 4 - 1.5) < 1)
        weave = 10 * ((x + y) % 2 - 0.5)
        return _mix(paper_c * 0.92 + weave[..., None], ink_c, 0.9 * (cells & cross).astype(np.float32))
    if style == "hatched":  # parallel strokes of a pen, bent a little, where the ink would be
        slant = rng.uniform(0.7, 1.4)
        strokes = _smoothstep(np.sin((x + slant * y) * 1.3 + 1.2 * _clouds(rng, 4)), -0.3, 0.4)
        return _mix(paper_c, ink_c, np.clip(cv2.dilate(mask, np.ones((3, 3), np.uint8)) * strokes, 0, 1))
    if style == "cutout":  # a hole in a sheet of the ink's colour, over the paper, with a shadow on its upper left rim
        shade = np.clip(mask - np.roll(mask, (3, 3), axis=(0, 1)), 0, 1)
        return _mix(_mix(0.55 * ink_c + 0.45 * 255, paper_c, mask), 30.0, 0.6 * shade)
    if style == "thermal":  # a heat picture in false colours, from violet over red to yellow
        heat = cv2.GaussianBlur(mask, (0, 0), 2.0) * 0.85 + 0.12 + 0.08 * _clouds(rng, 5)
        stops = np.array([(30, 0, 80), (150, 20, 120), (235, 80, 40), (255, 230, 120)], np.float32)
        at = np.clip(heat, 0, 1) * (len(stops) - 1)
        return np.stack([np.interp(at, range(len(stops)), stops[:, channel]) for channel in range(3)], axis=-1)
    if style == "beaded":  # round beads with a highlight, one for each cell of 4 px along the stroke
        cells = cv2.resize(cv2.resize(mask, (16, 16), interpolation=cv2.INTER_AREA), (64, 64), interpolation=0) > 0.35
        bead = (np.hypot(x % 4 - 1.5, y % 4 - 1.5) < 1.9) & cells
        highlight = (np.hypot(x % 4 - 1, y % 4 - 1) < 0.8) & cells
        return _mix(_mix(0.25 * paper_c, 0.6 * ink_c + 0.4 * 255, bead.astype(np.float32)), 255.0, 0.6 * highlight)
    raise ValueError(f"style {style!r}: expected one of {', '.join((*STYLES, *UNSEEN_STYLES))}")


def _lit(page: Page, light: str, rng: np.random.Generator, wear: float) -> Page:
    """The page under a light. Daylight keeps colours within a few levels."""
    y, x = np.mgrid[-1 : 1 : SIZE_PX * 1j, -1 : 1 : SIZE_PX * 1j].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    along = (x * np.cos(angle) + y * np.sin(angle)).astype(np.float32)
    if light == "daylight":
        return page * (1 + wear * (rng.uniform(-0.03, 0.03) + 0.03 * along))[..., None]
    if light == "lamplight":
        fall = 0.95 - 0.2 * along
        return page * np.stack([fall * 1.05, fall * 0.86, fall * 0.58], axis=-1)
    if light == "moonlight":
        fall = 0.55 - 0.08 * along
        return page * np.stack([fall * 0.72, fall * 0.86, fall * 1.2], axis=-1)
    if light == "sunset":
        t = (along + 1) / 2
        return page * np.stack([0.95 + 0.05 * t, 0.55 + 0.25 * t, 0.6 + 0.1 * (1 - t)], axis=-1)
    if light == "fog":
        veil = np.clip(0.5 + 0.12 * _clouds(rng, 4), 0, 1)[..., None]
        return page * (1 - veil) + 222 * veil
    if light == "shadow":
        dark = _smoothstep(along, -0.05, 0.15)
        return page * (1 - 0.5 * dark)[..., None]
    if light == "spotlight":
        centre = rng.uniform(-0.25, 0.25, 2)
        cone = _smoothstep(-np.hypot(x - centre[0], y - centre[1]).astype(np.float32), -1.15, -0.55)
        return page * (0.3 + 0.75 * cone)[..., None]
    raise ValueError(f"light {light!r}: expected one of {', '.join(LIGHTS)}")


def _coverage(scene: Scene, rng: np.random.Generator) -> Plane:
    """Ink coverage of whatever the scene shows; none on an empty page."""
    if scene.sense == "numeral":
        return _numeral_mask(scene.scan, rng, scene.wear)
    if scene.sense == "pips":
        return _pips_mask(scene.class_id, rng, scene.wear)
    if scene.sense == "shape":
        return _shape_mask(scene.class_id, rng, scene.wear)
    return np.zeros((SIZE_PX, SIZE_PX), np.float32)


def _random(scene: Scene) -> np.random.Generator:
    return np.random.default_rng([scene.seed, scene.class_id, scene.scan + 1])


def ink_mask(scene: Scene) -> NDArray[np.bool_]:
    """Where ink covers at least half of a pixel of `render(scene)`, bool H W; what a style makes of it is left out."""
    return _coverage(scene, _random(scene)) >= 0.5


def render(scene: Scene) -> Image:
    """The picture of a scene, uint8 H W 3; depends on the scene alone."""
    rng = _random(scene)
    mask = _coverage(scene, rng)
    ground = _ground(scene.ground, PAPERS[scene.paper], rng)
    page = _painted(mask, INKS[scene.ink], ground, scene.style, rng)
    lit = _lit(page, scene.light, rng, scene.wear)
    noise = rng.normal(0, 2.0 * scene.wear, lit.shape)
    return np.clip(lit + noise + 0.5, 0, 255).astype(np.uint8)


def measure_ink_and_paper(image: Image) -> tuple[str, str]:
    """The nearest ink and paper of a plain photo on plain paper in daylight; all else changes colours by design.

    Paper is the median of the outer 5 px. Ink is the mean of the 3 % of pixels farthest from that paper, after a
    3x3 mean against noise.
    """
    smooth = cv2.blur(image, (3, 3)).astype(np.float32)
    border = np.ones((SIZE_PX, SIZE_PX), bool)
    border[5:-5, 5:-5] = False
    paper = np.median(smooth[border], axis=0)
    distance = np.linalg.norm(smooth - paper, axis=-1)
    ink = smooth[distance >= np.quantile(distance, 0.97)].mean(axis=0)

    def nearest(colour: NDArray[np.float32], palette: dict[str, Colour]) -> str:
        return min(palette, key=lambda name: float(np.linalg.norm(colour - np.array(palette[name]))))

    return nearest(ink, INKS), nearest(paper, PAPERS)

"""A contact sheet of the generator: `python -m sandbox.sheet docs/data/sandbox.png`.

In: the shipped pipeline. Out and on disk: a PNG with one row for each class: numerals in several colours, lights and
styles; pips at the right.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage

from sandbox.captions import DIE_MEANINGS, LIGHT_PHRASES, NUMERAL_MEANINGS, STYLE_PHRASES, TILE_MEANINGS
from sandbox.generator import draw, load_generator
from sandbox.world import CLASS_NAMES, INKS, PAPERS

MODELS = Path(__file__).parent / "models"
# (sense, light, style) of each column; ink and paper change from cell to cell
COLUMNS = (
    *(("numeral", "daylight", "photo"),) * 4,
    ("numeral", "sunset", "photo"),
    ("numeral", "spotlight", "photo"),
    ("numeral", "daylight", "watercolour"),
    ("numeral", "daylight", "neon"),
    ("numeral", "daylight", "chalk"),
    ("numeral", "daylight", "blueprint"),
    ("numeral", "daylight", "stencil"),
    ("numeral", "daylight", "outline"),
    *(("pips", "daylight", "photo"),) * 2,
)
GAP_PX = 4


def sheet_prompts() -> list[str]:
    """A prompt for each cell of the sheet, row by row."""
    inks, papers = list(INKS), list(PAPERS)
    prompts = []
    for class_id, name in enumerate(CLASS_NAMES):
        for column, (sense, light, style) in enumerate(COLUMNS):
            pips = DIE_MEANINGS if 1 <= class_id <= 6 else TILE_MEANINGS
            form = NUMERAL_MEANINGS[0] if sense == "numeral" else pips[0]
            ink, paper = inks[(class_id + 3 * column) % len(inks)], papers[(3 * class_id + column) % len(papers)]
            details = f"{ink} ink on {paper} paper, {LIGHT_PHRASES[light]}, {STYLE_PHRASES[style]}"
            prompts.append(f"{form.format(name=name)}, {details}")
    return prompts


def main() -> None:
    """Draw the sheet and write it to the file that the command line names."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m sandbox.sheet PICTURE.png, for example docs/data/sandbox.png")
    prompts = sheet_prompts()
    images = draw(load_generator(MODELS / "generator"), prompts, range(len(prompts)))
    cell = 64 + GAP_PX
    page = np.full((len(CLASS_NAMES) * cell + GAP_PX, len(COLUMNS) * cell + GAP_PX, 3), 255, np.uint8)
    for number, image in enumerate(images):
        top, left = GAP_PX + number // len(COLUMNS) * cell, GAP_PX + number % len(COLUMNS) * cell
        page[top : top + 64, left : left + 64] = image
    PillowImage.fromarray(page).save(sys.argv[1], optimize=True)


if __name__ == "__main__":
    main()

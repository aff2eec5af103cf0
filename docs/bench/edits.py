"""What edits of the sandbox's real images keep and change: `python -m docs.bench.edits [--scale 1x]`.

In: `out/real` (`python -m sandbox.build --data out/real`). Out: a line for each of six cells, {background, colour,
texture} x {feasible, infeasible}. On disk: `out/edits/<cell>`, made by `sixfold edit`; the table of docs/EDIT.md; the
picture docs/data/edits.png, a column for each of some sources.

A label is kept if the sandbox's judge sees the numeral of the source's class. It never saw an edited image, but it has
learned from other pages of the very scans that are edited, so the shares are optimistic. They have 95 % Wilson
intervals.
"""

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cluster.process.stop_flag import StopFlag
from cluster.recipes.load import load_recipe
from docs.bench.page import replaced
from gen.edit.recipe import EditRecipe
from gen.edit.run import run
from gen.make.plan import parse_scale
from sandbox.bars import wilson
from sandbox.judge import judge, load_judge
from shards.disk.home import home
from shards.disk.jpeg import decode_jpeg
from shards.disk.layout import SUCCESS
from shards.disk.replace import replace_file
from shards.disk.store import open_for_reading
from shards.set.manifest import read_member, read_table, scan_records

JUDGE = home() / "sandbox" / "models" / "judge.safetensors"
RECIPE = home() / "recipes" / "edit" / "sandbox.yaml"
CELLS = [(kind, side) for kind in ("background", "colour", "texture") for side in ("feasible", "infeasible")]
PAGE, PICTURE = home() / "docs" / "EDIT.md", home() / "docs" / "data" / "edits.png"
# A judge that lets less pass than the recipe's, and half of the way for colours.
STRICT = ["edit.judge.threshold=0.8", "edit.judge.budget=5", "edit.strength.colour=0.5"]
SHOWN = 12  # sources in the picture


def make(kind: str, side: str, scale: Fraction) -> Path:
    """The edited set of a cell; what is there is not made again."""
    out = home() / "out" / "edits" / f"{kind}-{side}"
    cell = [f"edit.attributes.kinds=[{kind}]", f"edit.attributes.feasibility={side}"]
    recipe = load_recipe(RECIPE, EditRecipe, [*cell, *STRICT])
    with StopFlag() as stop:
        outcome = run(recipe, scale, str(out), home(), stop)
    if not outcome.done_units:
        raise SystemExit(f"{out}: {outcome.sentence()}")
    return out


def rows_of(folder: Path) -> list[dict[str, object]]:
    """All draws of a set."""
    store = open_for_reading(str(folder))
    return read_table(store, scan_records(store)).to_pylist()


def pixels_of(folder: Path, rows: Sequence[Mapping[str, object]]) -> NDArray[np.uint8]:
    """N H W C."""
    store = open_for_reading(str(folder))
    return np.stack([decode_jpeg(read_member(store, row)) for row in rows])


def draws_per_s(folder: Path) -> float:
    """Of one worker at work, as the shards' records tell, whichever call made them."""
    records = scan_records(open_for_reading(str(folder))).values()
    return sum(record.count for record in records) / sum(record.duration for record in records)


def cell_line(kind: str, side: str, folder: Path) -> str:
    """A row of the table."""
    rows = rows_of(folder)
    kept = [row for row in rows if row["status"] == SUCCESS]
    labels = np.array([row["class_id"] for row in kept])
    right = int((judge(load_judge(JUDGE), pixels_of(folder, kept)) == labels).sum())
    low, high = wilson(right, len(kept))
    statuses = Counter(str(row["status"]) for row in rows)
    halos = [told["halo"] for row in kept if "halo" in (told := json.loads(str(row["edit"])))]
    halo = f"{np.mean(halos):.1%}" if halos else ""
    asked = len({(row["url"], row["replicate"]) for row in rows})
    others = ", ".join(f"{num} {name}" for name, num in sorted(statuses.items()) if name != SUCCESS)
    return (
        f"| {kind}, {side} | {len(kept)} of {asked} | {right / len(kept):.1%} ({low:.1%} to {high:.1%}) | {halo} | "
        f"{others or 'none'} | {draws_per_s(folder):.1f} |"
    )


def picture(folders: Mapping[tuple[str, str], Path], real: Path) -> bytes:
    """A PNG: sources above, below them an edit of each cell that has one."""
    by_key = {str(row["key"]): row for row in rows_of(real)}
    edits = {cell: {str(row["url"]): row for row in rows_of(folder)} for cell, folder in folders.items()}
    chosen = sorted(set.intersection(*(set(found) for found in edits.values())))[:: max(1, 200 // SHOWN)][:SHOWN]
    strips = [np.concatenate(list(pixels_of(real, [by_key[url.split("#")[0]] for url in chosen])), axis=1)]
    blank = np.full((64, 64, 3), 255, np.uint8)
    for cell, found in edits.items():
        tiles = [
            pixels_of(folders[cell], [found[url]])[0] if found[url]["status"] == SUCCESS else blank for url in chosen
        ]
        strips.append(np.concatenate(tiles, axis=1))
    sheet = cv2.resize(np.concatenate(strips), None, fx=1.5, fy=1.5, interpolation=cv2.INTER_NEAREST)
    encoded = cv2.imencode(".png", sheet[:, :, ::-1])[1]
    return bytes(encoded)


def main() -> None:
    """Make what is missing, measure all, write table and picture."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--scale", default="1x")
    scale = parse_scale(asked.parse_args().scale)
    lines = [
        "| edit | images | label kept | old background at the rim | rejected draws | draws a second |",
        "|---|---|---|---|---|---|",
    ]
    folders = {}
    for kind, side in CELLS:
        folders[kind, side] = make(kind, side, scale)
        lines.append(cell_line(kind, side, folders[kind, side]))
        print(lines[-1], flush=True)
    replace_file(PICTURE, picture(folders, home() / "out" / "real" / "real-train"))
    text = "\n".join(["", *lines, "", "Draws a second are those of one worker at work, loading apart.", ""])
    page = replaced(PAGE.read_text(), "edits", "python -m docs.bench.edits", text, PAGE.name)
    replace_file(PAGE, page.encode())


if __name__ == "__main__":
    main()

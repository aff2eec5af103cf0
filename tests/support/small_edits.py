"""A few real pictures of the sandbox, and edits of them from a recipe, for tests of gen.edit. No Ray."""

import hashlib
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from cluster.process.stop_flag import StopFlag
from gen.edit.recipe import EditRecipe
from gen.edit.run import run
from gen.make.outcome import MakeOutcome
from sandbox.sets import set_scenes
from sandbox.world import render
from shards.disk.home import home
from shards.disk.jpeg import decode_jpeg, encode_jpeg
from shards.disk.store import open_for_reading, open_store
from shards.set.manifest import read_member, read_table, scan_records
from shards.set.writer import ShardWriter
from tests.support.small_data_set import FINGERPRINT, sample

MODELS = home() / "sandbox" / "models"
NAMES = {0: "zero", 1: "one", 2: "two"}
EACH = 4  # sources of a class


def jpegs() -> list[tuple[int, bytes]]:
    """(class id, JPEG), the same number of each class."""
    found: list[tuple[int, bytes]] = []
    counts: Counter[int] = Counter()
    for scene in set_scenes("real-train"):
        if scene.class_id in NAMES and counts[scene.class_id] < EACH:
            counts[scene.class_id] += 1
            found.append((scene.class_id, encode_jpeg(render(scene), source_type=None)))
    return found


def write_real(folder: Path) -> Path:
    """A data set of them."""
    with ShardWriter(open_store(str(folder)), 0, "one-try", FINGERPRINT) as writer:
        for index, (class_id, jpeg) in enumerate(jpegs()):
            about = {"domain": "real", "class_name": NAMES[class_id], "width": 64, "height": 64}
            writer.add(sample(0, index, class_id, **about), jpeg)
        writer.commit(1.0, 2.0, {"device": "cpu"}, slots=EACH * len(NAMES))
    return folder


def write_classes(file: Path) -> Path:
    """Their class list."""
    file.write_text("id,name\n" + "".join(f"{one},{name}\n" for one, name in NAMES.items()))
    return file


def recipe_of(real: Path, classes: Path, how: dict[str, Any]) -> dict[str, Any]:
    """A recipe as plain data; `how`: its part `edit`."""
    return {
        "name": "edits",
        "classes": {"source": str(classes)},
        "source": {"set": str(real)},
        "edit": how,
        "prompts": {"kind": "template", "templates": ["a {name}", "{name} on paper"]},
        "sampler": {"model": str(MODELS / "generator"), "steps": 4, "size_px": 64, "batch": 5, "threads": 1},
        "shards": {"samples_per_shard": 6, "max_draws": 2},
        "cluster": {"in_process": True, "attempts": 1},
    }


def judged_by(base_url: str, folder: Path) -> dict[str, Any]:
    """A recipe of background edits in `folder`, judged by a language model: one question about each."""
    llm = {"provider": "openai", "model": "m", "base_url": base_url, "cache": str(folder / "llm.sqlite")}
    how = {
        "kind": "attribute",
        "attributes": {"kinds": ["background"], "lexicon": "sandbox"},
        "masks": {"order": ["otsu"]},
        "judge": {"kind": "vlm", "llm": llm, "asks": ["visible"], "budget": 2},
    }
    return recipe_of(write_real(folder / "real"), write_classes(folder / "classes.csv"), how)


def edit(body: dict[str, Any], out: Path, scale: int = 1, **changes: Any) -> MakeOutcome:
    """Make a scale; `changes`: fields of parts of the recipe."""
    merged = {**body, **{part: {**body.get(part, {}), **fields} for part, fields in changes.items()}}
    return run(EditRecipe.model_validate(merged), Fraction(scale), str(out), home(), StopFlag(), say=lambda line: None)


def rows(out: Path) -> list[dict[str, Any]]:
    """All rows of a set."""
    store = open_for_reading(str(out))
    return read_table(store, scan_records(store)).to_pylist()


def pixels(out: Path, row: dict[str, Any]) -> np.ndarray:
    """Of a success, as integers that can be subtracted."""
    return decode_jpeg(read_member(open_for_reading(str(out)), row)).astype(np.int16)


def source_of(real: Path, row: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """The row and the bytes of the picture that an edit names."""
    key, sha256 = row["url"].split("#sha256=")
    found = next(one for one in rows(real) if one["key"] == key)
    data = read_member(open_for_reading(str(real)), found)
    assert hashlib.sha256(data).hexdigest() == sha256
    return found, data


def all_bytes(out: Path) -> dict[str, bytes]:
    """Tars and tables by name."""
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.*")) if path.suffix in (".tar", ".parquet")}

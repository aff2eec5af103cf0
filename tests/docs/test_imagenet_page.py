"""The page on importing ImageNet: its commands, run as they stand there on small look-alikes of the archives."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
import yaml

from shards.disk.home import home
from shards.disk.jpeg import encode_jpeg
from shards.disk.store import open_for_reading
from shards.set.manifest import read_table, scan_records
from tests.support.small_data_set import picture
from train.evaluate.data_check import check_names
from train.evaluate.evaluate import EvaluateSpec, open_sets

REPO = home()
PAGE = (REPO / "docs" / "IMAGENET.md").read_text()
TENCH, GOLDFISH, COCK, CLOCK = "n01440764", "n01443537", "n01514668", "n02708093"  # outputs 0, 1, 7, 409
SETS = ("train", "held-out", "val", "v2-matched-frequency", "sketch", "rendition", "adversarial", "objectnet")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def write_archives(data: Path) -> None:
    """As they lie after unpacking, with one to three classes each."""
    pictures = {
        "imagenet/train": {TENCH: 22, COCK: 22},
        "imagenetv2-matched-frequency-format-val": {"0": 1, "7": 1, "409": 1},
        "sketch": {TENCH: 1, COCK: 1},
        "imagenet-r": {GOLDFISH: 1, COCK: 1},
        "imagenet-a": {COCK: 2},
        "objectnet-1.0/images": {"air_freshener": 1, "alarm_clock": 2},
    }
    number = 0
    for place, classes in pictures.items():
        for name, count in classes.items():
            (data / place / name).mkdir(parents=True)
            for index in range(count):
                number += 1
                pixels = encode_jpeg(picture(number % 3, number, 16), source_type=None)
                (data / place / name / f"{name}_{index}.JPEG").write_bytes(pixels)
    (data / "imagenet-r" / "README.txt").write_text("renditions")
    (data / "imagenet" / "val").mkdir()
    for name in ("ILSVRC2012_val_00000001", "ILSVRC2012_val_00000002"):
        (data / "imagenet" / "val" / f"{name}.JPEG").write_bytes(
            encode_jpeg(np.full((16, 16, 3), int(name[-1]) * 40, np.uint8), source_type=None)
        )
    (data / "imagenet" / "LOC_val_solution.csv").write_text(
        f"ImageId,PredictionString\nILSVRC2012_val_00000001,{COCK} 85 1 499 272 \n"
        f"ILSVRC2012_val_00000002,{TENCH} 1 2 3 4 {TENCH} 5 6 7 8 \n"
    )
    mappings = data / "objectnet-1.0" / "mappings"
    mappings.mkdir()
    folders = {"air_freshener": "Air freshener", "alarm_clock": "Alarm clock"}
    (mappings / "folder_to_objectnet_label.json").write_text(json.dumps(folders))
    (mappings / "objectnet_to_imagenet_1k.json").write_text(json.dumps({"Alarm clock": "analog clock; digital clock"}))
    (mappings / "pytorch_to_imagenet_2012_id.json").write_text(json.dumps({"409": 1, "530": 0}))
    (mappings / "imagenet_to_label_2012_v2").write_text("digital clock\nanalog clock\n")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archives, after all commands of the page have run."""
    folder = tmp_path_factory.mktemp("imagenet") / "data"
    write_archives(folder)
    program = f'set -e\nsixfold() {{ {shlex.quote(sys.executable)} {REPO / "sixfold.py"} "$@"; }}\n'
    program += "\n".join(blocks("sh")).replace("/data/", f"{folder}/")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", program],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=570,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def classes_of(data: Path, name: str) -> dict[int, str]:
    store = open_for_reading(str(data / "imagenet-shards" / name))
    table = read_table(store, scan_records(store), ["class_id", "class_name", "status"])
    kept = table.filter(pc.equal(table["status"], "success"))
    return dict(zip(kept["class_id"].to_pylist(), kept["class_name"].to_pylist(), strict=True))


def test_every_command_of_the_page_makes_a_set_with_imagenets_ids(data: Path) -> None:
    assert {name: classes_of(data, name) for name in SETS} == {
        "train": {0: "tench", 7: "rooster"},
        "held-out": {0: "tench", 7: "rooster"},
        "val": {0: "tench", 7: "rooster"},
        "v2-matched-frequency": {0: "tench", 7: "rooster", 409: "analog clock"},
        "sketch": {0: "tench", 7: "rooster"},
        "rendition": {1: "goldfish", 7: "rooster"},
        "adversarial": {7: "rooster"},
        "objectnet": {0: "air freshener", 1: "alarm clock"},
    }
    num = [len(list((data / "imagenet" / name / COCK).iterdir())) for name in ("train", "held-out")]
    assert num == [2, 20]


def test_the_tests_of_the_page_fit_a_model_with_imagenets_outputs(data: Path) -> None:
    [text] = blocks("yaml")
    tests = yaml.safe_load(text.replace("/data/", f"{data}/"))
    held_out = {"source": str(data / "imagenet-shards" / "held-out")}
    spec = EvaluateSpec.model_validate({"validation": held_out, "tests": tests})
    sets = {one.name: one for one in open_sets(spec, 1000)}
    assert dict(sets["rendition"].key.accepted) == {1: (1,), 7: (7,)}
    assert np.flatnonzero(sets["adversarial"].key.competes_C).tolist() == [7]
    assert dict(sets["objectnet"].key.accepted) == {1: (409, 530)}
    [said] = check_names([one.opened for one in sets.values()])
    assert said.startswith("evaluate.tests.objectnet")


def test_the_recipes_read_what_the_page_makes() -> None:
    for recipe in sorted((REPO / "recipes").glob("imagenet-*.yaml")):
        evaluate = yaml.safe_load(recipe.read_text()).get("evaluate")
        if evaluate:
            for one in [evaluate["validation"], *evaluate["tests"].values()]:
                assert f"--out {one['source']}\n" in PAGE

"""Edits beside their sources: which picture belongs to which, how a source becomes as large as its edit, what is a
distance of layers, and what intervals are over."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.image.lpips import _LPIPS
from typer.testing import CliRunner

import sixfold
from shards.disk.jpeg import decode_jpeg, encode_jpeg
from shards.stream.index import load_index
from shards.stream.pixels import whole_pixels
from tests.support.small_data_set import write_data_set
from tests.support.small_edits import EACH, NAMES, edit, jpegs, recipe_of, rows, write_classes, write_real
from train.evaluate.features import Network
from train.evaluate.measure_sets import Figure
from train.evaluate.pairs import likeness, mean_by_group, pairs_of, perceptual_distance

torch.set_num_threads(1)
AS_THEY_ARE = {"kind": "perturb", "gamma": 0}
SEEDS = st.integers(0, 2**32 - 1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_real(tmp_path_factory.mktemp("real") / "set")


@pytest.fixture(scope="module")
def edited(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each source twice, as it is."""
    folder = tmp_path_factory.mktemp("edited")
    body = recipe_of(real, write_classes(folder / "classes.csv"), AS_THEY_ARE)
    assert edit(body, folder / "out", 2).exit_code == 0
    return folder / "out"


def reduced(image_HWC: np.ndarray) -> np.ndarray:
    """The means of 8 x 8 cells less the picture's own, as one row."""
    high, wide = (side // 8 * 8 for side in image_HWC.shape[:2])
    cells = image_HWC[:high, :wide].reshape(8, high // 8, 8, wide // 8, 3).mean((1, 3))
    return (cells - cells.mean()).ravel().astype(np.float32)


def planted() -> Network:
    """Cells of pixels as features, pixels as its one layer."""

    def maps(pictures: list[np.ndarray]) -> list[torch.Tensor]:
        return [torch.from_numpy(np.stack(pictures)).float().flatten(1, 2).mT]

    return Network("cells", "0" * 64, whole_pixels, lambda pictures: np.stack([*map(reduced, pictures)]), maps=maps)


def figures_of(edited: Path, sources: Path) -> dict[str, Figure]:
    index = load_index(str(edited))
    pairs = pairs_of(str(edited), index, str(sources), range(len(index)))
    found = likeness(planted(), str(edited), str(sources), pairs, lambda done, of: None)
    return {figure.name: figure for figure in found}


# which picture belongs to which


def test_each_edit_stands_beside_its_own_source_and_beside_another_of_its_class(edited: Path, real: Path) -> None:
    found = figures_of(edited, real)
    own, other = found["cosine to the source"], found["cosine to another source of the class"]
    assert own.value == pytest.approx(1, abs=1e-6)
    assert found["perceptual distance of cells features to the source"].value == pytest.approx(0, abs=1e-6)
    of_class: dict[int, list[np.ndarray]] = {}
    for class_id, jpeg in jpegs():
        row = reduced(decode_jpeg(jpeg))
        of_class.setdefault(class_id, []).append(row / np.linalg.norm(row))
    # in the order of the set, and the first after the last
    cosines = [np.einsum("nd,nd->n", found, np.roll(found, -1, axis=0)) for found in of_class.values()]
    assert other.value == pytest.approx(np.mean(cosines), abs=1e-6)


def test_pictures_that_nobody_has_hashed_are_found_by_their_bytes(edited: Path, tmp_path: Path) -> None:
    for number, (class_id, jpeg) in enumerate(jpegs()):
        file = tmp_path / "folder" / NAMES[class_id] / f"{99 - number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(jpeg)
    assert figures_of(edited, tmp_path / "folder")["cosine to the source"].value == pytest.approx(1, abs=1e-6)


def test_a_set_without_the_sources_and_a_set_without_edits_are_refused(
    edited: Path, real: Path, tmp_path: Path
) -> None:
    write_data_set(tmp_path / "other")
    with pytest.raises(ValueError, match=r"found no source of 24 of 24 edits, such as '\d+', expected the pictures"):
        figures_of(edited, tmp_path / "other")
    for no_edits in (tmp_path / "other", real):
        with pytest.raises(ValueError, match=r"found pictures that are no edits, expected a data set that `sixfold"):
            figures_of(no_edits, real)


def test_of_no_edit_at_all_nothing_is_compared(edited: Path, real: Path) -> None:
    with pytest.raises(ValueError, match="found no edit to compare with its source"):
        pairs_of(str(edited), load_index(str(edited)), str(real), [])


@pytest.mark.parametrize("fit", ["crop", "squash"])
@pytest.mark.parametrize("size", [(48, 96), (150, 100)])
def test_a_source_of_another_shape_is_brought_to_the_edits_size_as_it_was_for_the_edit(
    fit: str, size: tuple[int, int], tmp_path: Path
) -> None:
    random = np.random.default_rng(4)
    for name in NAMES.values():
        for number in range(EACH):
            cells = random.integers(0, 256, (6, 6, 3)).astype(np.uint8)
            image = np.kron(cells, np.ones((size[0] // 6, size[1] // 6 + 1, 1), np.uint8))[:, : size[1]]
            file = tmp_path / "folder" / name / f"{number}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encode_jpeg(np.ascontiguousarray(image)))
    body = recipe_of(tmp_path / "folder", write_classes(tmp_path / "classes.csv"), {**AS_THEY_ARE, "fit": fit})
    assert edit(body, tmp_path / "out").exit_code == 0
    value = figures_of(tmp_path / "out", tmp_path / "folder")["cosine to the source"].value
    assert value is not None
    assert value > 0.998  # JPEG; squashed for cropped it is below 0.8


# a distance of layers


def test_the_distance_is_that_of_torchmetrics_without_its_learned_weights() -> None:
    torch.manual_seed(3)
    theirs = _LPIPS(pretrained=False, net="squeeze", pnet_rand=True, use_dropout=False)
    for layer in theirs.lins:
        torch.nn.init.ones_(layer.model[-1].weight)
    one, other = (torch.rand(3, 3, 64, 64) * 2 - 1 for _ in range(2))
    with torch.inference_mode():
        expected = theirs(one, other).flatten() / len(theirs.lins)
        maps = [[layer.flatten(2) for layer in theirs.net(theirs.scaling_layer(images))] for images in (one, other)]
    assert perceptual_distance(*maps).numpy() == pytest.approx(expected.numpy(), rel=1e-3)


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.floats(0.01, 100))
def test_the_distance_knows_directions_alone_and_is_0_to_4(seed: int, scale: float) -> None:
    random = torch.Generator().manual_seed(seed)
    one, other = (torch.randn(2, 5, 7, generator=random, dtype=torch.float64) for _ in range(2))
    value = perceptual_distance([one], [other])
    assert perceptual_distance([one * scale], [other]).numpy() == pytest.approx(value.numpy(), rel=1e-9)
    assert perceptual_distance([other], [one]).numpy() == pytest.approx(value.numpy(), rel=1e-9)
    assert ((value >= 0) & (value <= 4)).all()
    assert perceptual_distance([one], [one * scale]).numpy() == pytest.approx([0, 0], abs=1e-12)
    assert perceptual_distance([one], [-one]).numpy() == pytest.approx([4, 4])


def test_the_distance_of_layers_is_their_mean() -> None:
    east, north = torch.tensor([[[1.0], [0.0]]]), torch.tensor([[[0.0], [1.0]]])
    assert perceptual_distance([east, east, east], [north, east, -east]).tolist() == pytest.approx([2.0])


# intervals


@settings(deadline=None, max_examples=40)
@given(SEEDS, st.integers(2, 40), st.integers(1, 6))
def test_copies_of_a_pair_make_no_interval_narrower(seed: int, n: int, copies: int) -> None:
    values = np.random.default_rng(seed).normal(size=n)
    mean, low, high = mean_by_group(values, np.arange(n))
    assert low is not None
    assert high is not None
    assert mean == pytest.approx(values.mean())
    assert high - mean == pytest.approx(1.959964 * values.std(ddof=1) / np.sqrt(n))
    again = mean_by_group(np.repeat(values, copies), np.repeat(np.arange(n) * 7, copies))
    assert again == pytest.approx((mean, low, high))


def test_one_source_alone_has_no_interval() -> None:
    assert mean_by_group(np.array([1.0, 2.0]), np.array([4, 4])) == (1.5, None, None)


# the verb


def test_the_verb_says_how_like_edits_are_to_their_sources(edited: Path, real: Path, tmp_path: Path) -> None:
    asked = ["measure", str(edited), "--sources", str(real), "--out", str(tmp_path / "out"), "--limit", "20"]
    said = CliRunner().invoke(sixfold.command_line(), asked)
    assert said.exit_code == 0, said.output
    assert f"20 edits beside their sources in {real}; intervals are over sources" in said.output
    told: dict[str, Any] = json.loads((tmp_path / "out" / "figures.json").read_text())
    values = {one["name"]: one["value"] for one in told["figures"]}
    assert values["cosine to the source"] == pytest.approx(1, abs=1e-4)
    assert values["cosine to another source of the class"] < 0.99
    assert values["perceptual distance of CLIP sandbox/models/clip features to the source"] < 1e-3
    assert "Vendi score of 20 pictures" in values
    assert (told["sources"], told["num_pairs"], len(told["digests"])) == (str(real), 20, 2)
    assert len(rows(edited)) == 24

"""Measuring sets of pictures: which networks make features, what is kept, floors, intervals, twins, the verb."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from transformers import BitImageProcessor, Dinov2Config, Dinov2Model
from typer.testing import CliRunner

import sixfold
from gen.model.folder import ModelError
from shards.disk.jpeg import encode_jpeg
from shards.stream.index import load_index
from tests.support.hub_cache import COMMIT, timm_model
from tests.support.small_data_set import picture, write_data_set
from train.evaluate.features import SANDBOX_CLIP, Network, Set, features_of, open_network
from train.evaluate.measure_sets import Figure, How, around, compare_sets, describe_set, errors_of

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def nobody(*_: object) -> None:
    pass


def mean_colours(width: int = 3) -> tuple[Network, list[int]]:
    """A network that answers with mean colours, and the sizes of the batches that it was asked for."""
    asked: list[int] = []

    def rows(pictures: list[np.ndarray]) -> np.ndarray:
        asked.append(len(pictures))
        return np.stack([one.mean((0, 1)) for one in pictures]).astype(np.float32)[:, :width]

    from shards.stream.pixels import whole_pixels

    return Network("mean colours", "0" * 64, whole_pixels, rows), asked


def write_pictures(folder: Path, count: int, noise: float, seed: int = 0) -> Path:
    random = np.random.default_rng(seed)
    (folder / "one").mkdir(parents=True)
    for number in range(count):
        image = random.normal(120, 40, size=(1, 1, 3)) + random.normal(0, noise, size=(16, 16, 3))
        (folder / "one" / f"{number:04d}.png").write_bytes(encode_jpeg(image.clip(0, 255).astype(np.uint8)))
    return folder


def test_features_are_kept_by_the_contents_of_pictures_and_network(tmp_path: Path) -> None:
    write_data_set(tmp_path / "set")
    network, asked = mean_colours()
    first = features_of(network, str(tmp_path / "set"), None, nobody, nobody)
    assert sum(asked) == len(first.rows) == 20
    again = features_of(network, str(tmp_path / "set"), None, nobody, nobody)
    assert sum(asked) == 20
    assert (again.rows == first.rows).all()
    other, asked_of_other = mean_colours()
    features_of(Network("", "1" * 64, other.prepare, other.rows), str(tmp_path / "set"), None, nobody, nobody)
    assert sum(asked_of_other) == 20
    [kept] = [path for path in (tmp_path / "cache").rglob("*.npy") if np.load(path).tobytes() == first.rows.tobytes()][
        :1
    ]
    kept.write_bytes(kept.read_bytes()[:-1])  # cut off: made again
    assert (features_of(network, str(tmp_path / "set"), None, nobody, nobody).rows == first.rows).all()
    assert sum(asked) == 40


def test_pictures_that_nobody_has_hashed_are_read_each_time(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "folder", 12, 5)
    network, asked = mean_colours()
    for times in (1, 2):
        features_of(network, str(folder), None, nobody, nobody)
        assert sum(asked) == 12 * times


def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "folder", 12, 5)
    (folder / "one" / "0003.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"0003\.png: found .*; replace that file by a whole picture, or remove it"):
        features_of(mean_colours()[0], str(folder), None, nobody, nobody)


def test_a_classifier_gives_what_timm_gives_without_its_last_layer(tmp_path: Path) -> None:
    model = timm_model("resnet10t", 5)
    shown = {"input_size": (3, 32, 32), "crop_pct": 1.0, "mean": (0.2, 0.3, 0.4), "std": (0.5, 0.6, 0.7)}
    timm.models.save_for_hf(model, tmp_path / "model", safe_serialization=True, data_config=shown)
    network = open_network(str(tmp_path / "model"), None, "cpu")
    image = picture(1, 2, 32)
    pixels = (torch.from_numpy(image).float() / 255 - torch.tensor([0.2, 0.3, 0.4])) / torch.tensor([0.5, 0.6, 0.7])
    with torch.inference_mode():
        plain = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval()
        theirs = plain.forward_head(plain.forward_features(pixels.permute(2, 0, 1)[None]), pre_logits=True)
        last = plain.forward_features(pixels.permute(2, 0, 1)[None]).flatten(2)
    assert network.rows([image])[0] == pytest.approx(theirs[0].numpy(), abs=1e-5)
    assert not network.is_clip
    assert network.maps is not None
    assert network.maps([image])[-1].numpy() == pytest.approx(last.numpy(), abs=1e-5)


def test_our_own_exports_give_features_too() -> None:
    network = open_network("sandbox/models/pretrained", None, "cpu")
    pictures = [network.prepare(encode_jpeg(picture(class_id, 0, 64))) for class_id in range(3)]
    rows = network.rows(pictures)
    assert rows.shape == (3, 128)
    assert network.maps is not None
    layers = network.maps(pictures)
    assert [layer.shape for layer in layers] == [(3, 32, 256), (3, 64, 64), (3, 128, 16)]
    assert layers[-1].mean(2).numpy() == pytest.approx(rows, abs=1e-5)


def test_dinov2_gives_its_class_token(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    model = Dinov2Model(Dinov2Config(**sizes)).eval()
    model.save_pretrained(tmp_path / "dino")
    processor = BitImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    processor.save_pretrained(tmp_path / "dino")
    network = open_network(str(tmp_path / "dino"), None, "cpu")
    image = picture(1, 2, 28)
    with torch.inference_mode():
        pixels = processor(images=[image], return_tensors="pt", input_data_format="channels_last")["pixel_values"]
        theirs = model(pixel_values=pixels)
        assert network.maps is not None
        layers = network.maps([image])
        last = model.layernorm(layers[-1].mT)
    assert network.rows([image])[0] == pytest.approx(theirs.pooler_output[0].numpy(), abs=1e-5)
    assert [layer.shape for layer in layers] == [(1, 16, 4)] * 2  # without the class token
    assert last.numpy() == pytest.approx(theirs.last_hidden_state[:, 1:].numpy(), abs=1e-5)


def test_a_network_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="found a model of the type 'bert', expected clip, dinov2"):
        open_network(str(tmp_path / "other"), None, "cpu")
    (tmp_path / "other" / "config.json").write_text('{"model_type": "dinov2"}')
    (tmp_path / "other" / "pytorch_model.bin").write_bytes(b"pickled")
    with pytest.raises(ValueError, match=r"only pytorch_model\.bin, expected model\.safetensors; pickled weights"):
        open_network(str(tmp_path / "other"), None, "cpu")


def test_a_hub_id_of_transformers_is_asked_for_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    home = tmp_path / "models--someone--dino"
    (home / "snapshots" / COMMIT).mkdir(parents=True)
    (home / "snapshots" / COMMIT / "config.json").write_text('{"model_type": "dinov2"}')
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(COMMIT)
    with pytest.raises(ModelError, match=rf"without its commit, expected --revision COMMIT; .* {COMMIT}") as refused:
        open_network("someone/dino", None, "cpu")
    assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match="found neither a file or folder of that name nor the model in the hub cache"):
        open_network("someone/else", None, "cpu")


def set_of(rows: np.ndarray, tmp_path: Path) -> Set:
    """A set of these features; its pictures are of no matter."""
    folder = tmp_path / f"set-{len(rows)}"
    if not folder.exists():
        write_data_set(folder, 1, len(rows), 0)
    return Set(str(folder), load_index(str(folder)), rows.astype(np.float32))


def figures_of(made: np.ndarray, real: np.ndarray, tmp_path: Path, how: How = How()) -> dict[str, Figure]:
    network = Network("planted", "0" * 64, lambda data: np.zeros(0), lambda pictures: np.zeros(0))
    found = compare_sets(network, set_of(made, tmp_path), set_of(real, tmp_path), how)
    return {figure.name: figure for figure in found.figures}


def test_a_set_of_the_same_population_lies_at_the_floor_and_another_does_not(tmp_path: Path) -> None:
    random = np.random.default_rng(7)
    real = random.normal(size=(400, 8))
    same = figures_of(random.normal(size=(200, 8)), real, tmp_path)["Frechet distance"]
    other = figures_of(random.normal(size=(200, 8)) + 1, real, tmp_path)["Frechet distance"]
    for one in (same, other):
        assert one.value is not None
        assert one.low is not None
        assert one.floor is not None
    assert same.low < same.floor < same.high  # type: ignore[operator]
    assert other.low > 10 * other.floor  # type: ignore[operator]
    assert other.value == pytest.approx(8, abs=1.5)  # 8 features, each moved by 1


def test_intervals_hold_the_distance_of_the_populations_about_as_often_as_they_say(tmp_path: Path) -> None:
    random = np.random.default_rng(11)
    hits = 0
    for _ in range(40):
        found = figures_of(random.normal(size=(150, 2)) + 2, random.normal(size=(300, 2)), tmp_path, How(draws=10))[
            "Frechet distance"
        ]
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 8 <= found.high  # 2 features, each moved by 2
    assert hits >= 33, f"{hits} of 40 with the seed 11"  # 38 expected; fewer than 33 at 95 %: p < 0.01


@pytest.mark.parametrize("draws", [3, 10])
def test_95_of_100_intervals_hold_the_mean_of_the_population_from_however_few_draws(draws: int) -> None:
    random, how, hits = np.random.default_rng(13), How(draws=draws), 0
    for _ in range(1000):
        made = random.normal(size=(40, 1)).astype(np.float32)
        errors = errors_of(lambda made, real: {"mean": float(made.mean())}, made, made[:4], how, random)
        low, high = around(float(made.mean()), errors["mean"])
        assert low is not None
        assert high is not None
        hits += low <= 0 <= high
    assert 930 <= hits <= 970, f"{hits} of 1,000"


def test_a_metric_that_needs_more_pictures_says_so_and_the_others_stand(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    found = figures_of(random.normal(size=(20, 32)), random.normal(size=(60, 32)), tmp_path)
    missing = found["frechet distance"]
    assert missing.value is None
    assert "found 20 pictures for 32 features, expected more pictures than features" in missing.text()
    assert found["KID"].value is not None


def test_copies_of_test_pictures_are_named(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    real, made = random.normal(size=(60, 16)), random.normal(size=(20, 16))
    made[4], made[9] = real[17] * 1.5, real[3] + 1e-3
    network = Network("planted", "0" * 64, lambda data: np.zeros(0), lambda pictures: np.zeros(0))
    one, other = set_of(made, tmp_path), set_of(real, tmp_path)
    found = compare_sets(network, one, other, How())
    assert found.num_alike == 2
    named = {(pair.uid, pair.other_uid) for pair in found.alike}
    assert named == {(f"{int(one.index.uid[a]):016x}", f"{int(other.index.uid[b]):016x}") for a, b in ((4, 17), (9, 3))}


def test_the_share_of_twins_is_that_of_equally_many_pictures_as_its_floor_is(tmp_path: Path) -> None:
    """Two sets of one population of 500 motifs, one of them 20 times larger: it has nearly all motifs of the other."""
    random = np.random.default_rng(17)
    motifs = random.normal(size=(500, 32))
    shown, others = random.integers(500, size=100), random.integers(500, size=2000)
    made, real = (motifs[which] + random.normal(size=(len(which), 32)) / 50 for which in (shown, others))
    network = Network("planted", "0" * 64, lambda data: np.zeros(0), lambda pictures: np.zeros(0))
    found = compare_sets(network, set_of(made, tmp_path), set_of(real, tmp_path), How())
    assert found.num_alike == np.isin(shown, others).sum() > 90, "of all pictures"
    [twins] = [one for one in found.figures if one.name.startswith("share with a twin")]
    expected = 1 - (1 - 1 / 500) ** 100  # of 100 drawn motifs to have a given one: 0.18
    for share in (twins.value, twins.floor):
        assert share == pytest.approx(expected, abs=3 * (expected * (1 - expected) / 100) ** 0.5)


def test_sets_that_are_too_small_to_draw_from_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found 20 pictures against 14, expected at least 8 and twice as many"):
        figures_of(np.zeros((20, 4)), np.zeros((14, 4)), tmp_path)


def test_the_clip_score_is_the_mean_cosine_of_pictures_and_their_captions(tmp_path: Path) -> None:
    write_data_set(tmp_path / "set")
    clip = open_network(SANDBOX_CLIP, None, "cpu")
    one = features_of(clip, str(tmp_path / "set"), None, nobody, nobody)
    assert clip.texts is not None
    texts = clip.texts([one.captions[int(uid)] for uid in one.index.uid])
    expected = 100 * np.einsum("nd,nd->n", one.rows, texts).clip(0).mean()
    [score] = [figure for figure in describe_set(clip, one, How()).figures if figure.name == "CLIP score"]
    assert score.value == pytest.approx(expected, rel=1e-5)


def test_the_verb_prints_figures_beside_their_floor_and_writes_them(tmp_path: Path) -> None:
    real, made = write_pictures(tmp_path / "real", 40, 30), write_pictures(tmp_path / "made", 20, 5, seed=1)
    asked = ["measure", str(made), "--against", str(real), "--out", str(tmp_path / "out")]
    said = CliRunner().invoke(sixfold.command_line(), asked)
    assert said.exit_code == 0, said.output
    assert "distances are over 20 pictures of each set" in said.output
    assert "CLIP score: none (the set has no captions)" in said.output
    told = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert {"KID", "CMMD", "precision", "recall", "density", "coverage"} <= {one["name"] for one in told["figures"]}
    assert told["n"] == 20
    alone = CliRunner().invoke(sixfold.command_line(), ["measure", str(made)])
    assert "Vendi score of 20 pictures" in alone.output
    assert "against" not in alone.output

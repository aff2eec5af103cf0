"""CLIP: vectors equal to the libraries' own, what of a text is seen, and which folders are never opened."""

import json
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transform import image_transform
from PIL import Image as Picture
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPProcessor

from gen.model.clip import Clip, ClipSpec, clip_digest, clip_folder
from sandbox.clip import load_clip
from sandbox.sets import set_scenes
from sandbox.world import render
from shards.disk.home import home

SANDBOX = home() / "sandbox" / "models" / "clip"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TEXTS = [
    "zero, the handwritten numeral",
    "a photo of nine",
    "eight, the face of a tile, blue ink on mint paper, in fog",
]
WIDTH = 16
TINY = {
    "embed_dim": WIDTH,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
}
TINY_PREPROCESS = {
    "mean": [0.4, 0.5, 0.6],
    "std": [0.3, 0.2, 0.25],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def sandbox_clip() -> Clip:
    return Clip.load(ClipSpec(model="sandbox/models/clip"))


@pytest.fixture(scope="module")
def tiny_open_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights in the folder format of open_clip."""
    folder = tmp_path_factory.mktemp("open-clip")
    torch.manual_seed(0)
    save_file(open_clip.CLIP(**TINY).state_dict(), folder / "open_clip_model.safetensors")
    config = {"model_cfg": TINY, "preprocess_cfg": TINY_PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the sandbox's CLIP to break."""
    return Path(shutil.copytree(SANDBOX, tmp_path / "clip"))


def pictures() -> list[np.ndarray]:
    """Of the sandbox, and in other shapes: noise that is wide, high, tiny."""
    rng = np.random.default_rng(5)
    shapes = [(200, 70), (33, 500), (3, 3), (1, 1), (64, 64)]
    noise = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    return [*(render(scene) for scene in set_scenes("real-train")[:5]), *noise]


def unit(vectors: torch.Tensor) -> np.ndarray:
    return (vectors / vectors.norm(dim=-1, keepdim=True)).detach().numpy()


def refused(spec: ClipSpec) -> str:
    with pytest.raises(ValueError) as caught:
        clip_folder(spec)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# vectors


def test_rows_are_unit_vectors_of_one_space(sandbox_clip: Clip) -> None:
    texts, images = sandbox_clip.embed_texts(TEXTS), sandbox_clip.embed_images(pictures())
    assert texts.dtype == images.dtype == np.float32
    assert texts.shape == (len(TEXTS), 64)
    assert images.shape == (len(pictures()), 64)
    np.testing.assert_allclose(np.linalg.norm(np.concatenate([texts, images]), axis=1), 1, atol=1e-6)


def test_text_vectors_are_those_of_the_sandboxs_own_loader(sandbox_clip: Clip) -> None:
    model, tokenizer = load_clip(SANDBOX)
    tokens = tokenizer(TEXTS, padding="max_length", truncation=True, return_tensors="pt")["input_ids"]
    expected = unit(model.get_text_features(input_ids=tokens).pooler_output)
    np.testing.assert_allclose(sandbox_clip.embed_texts(TEXTS), expected, atol=1e-6)


def test_image_vectors_are_those_of_transformers_with_the_models_own_processor(sandbox_clip: Clip) -> None:
    model = CLIPModel.from_pretrained(SANDBOX, dtype=torch.float32).eval()
    processor = CLIPProcessor.from_pretrained(SANDBOX)
    expected = []
    for image in pictures():  # one by one, as a person would try it
        pixels = processor(images=Picture.fromarray(image), return_tensors="pt")["pixel_values"]
        expected.append(unit(model.get_image_features(pixel_values=pixels).pooler_output)[0])
    np.testing.assert_allclose(sandbox_clip.embed_images(pictures()), np.stack(expected), atol=2e-6)


def test_open_clip_vectors_are_those_of_open_clip(tiny_open_clip: Path) -> None:
    clip = Clip.load(ClipSpec(model=f"open_clip:{tiny_open_clip}"))
    model = open_clip.CLIP(**TINY).eval()
    model.load_state_dict(load_file(tiny_open_clip / "open_clip_model.safetensors"))
    tokens = open_clip.SimpleTokenizer(context_length=20)(TEXTS)
    np.testing.assert_allclose(clip.embed_texts(TEXTS), unit(model.encode_text(tokens)), atol=1e-6)
    preprocess = image_transform(32, is_train=False, mean=(0.4, 0.5, 0.6), std=(0.3, 0.2, 0.25))
    pixels = torch.stack([preprocess(Picture.fromarray(image)) for image in pictures()])
    np.testing.assert_allclose(clip.embed_images(pictures()), unit(model.encode_image(pixels)), atol=1e-6)


def test_a_vector_depends_on_neither_batch_nor_neighbours(sandbox_clip: Clip) -> None:
    small = Clip.load(ClipSpec(model="sandbox/models/clip", batch=3))
    many = [*TEXTS, "one", *TEXTS]
    np.testing.assert_allclose(small.embed_texts(many), sandbox_clip.embed_texts(many), atol=1e-6)
    np.testing.assert_allclose(small.embed_images(pictures()), sandbox_clip.embed_images(pictures()), atol=1e-6)
    np.testing.assert_array_equal(small.embed_texts(many), small.embed_texts(many))


def test_nothing_asked_is_no_row_of_the_right_width(sandbox_clip: Clip) -> None:
    assert sandbox_clip.embed_texts([]).shape == sandbox_clip.embed_images([]).shape == (0, 64)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((2, 1000, 3), np.uint8),  # scaled to 32 px on the short side it would be 16,000 px long
    ],
    ids=["floats", "grey", "alpha", "empty", "strip"],
)
def test_what_is_no_picture_is_refused(sandbox_clip: Clip, image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="image: found"):
        sandbox_clip.embed_images([image])


@pytest.mark.parametrize("library", ["transformers", "open_clip"])
def test_the_layers_of_the_image_tower_are_those_that_the_library_goes_through(
    library: str, sandbox_clip: Clip, tiny_open_clip: Path
) -> None:
    clip = sandbox_clip if library == "transformers" else Clip.load(ClipSpec(model=f"open_clip:{tiny_open_clip}"))
    if library == "transformers":
        model = CLIPModel.from_pretrained(SANDBOX, dtype=torch.float32)
        blocks, run = model.vision_model.encoder.layers, model.get_image_features
    else:
        model, _ = open_clip.create_model_from_pretrained(f"local-dir:{tiny_open_clip}")
        blocks, run = model.visual.transformer.resblocks, model.encode_image
    seen: list[torch.Tensor] = []
    for block in blocks:
        block.register_forward_hook(lambda block, given, made: seen.append(made if torch.is_tensor(made) else made[0]))
    images = pictures()[:3]
    with torch.inference_mode():
        run(clip.prepare_images(images))
    found = clip.image_maps(images)
    assert len(found) == len(seen) == len(blocks)
    for ours, theirs in zip(found, seen, strict=True):
        assert ours.shape[0] == 3
        torch.testing.assert_close(ours, theirs[:, 1:].mT, atol=1e-5, rtol=1e-4)  # without the class token


# what of a text is seen


def test_tokens_are_counted_with_both_ends(sandbox_clip: Clip, tiny_open_clip: Path) -> None:
    assert sandbox_clip.max_tokens == 32
    assert sandbox_clip.num_tokens(["zero", "", "zero, one"]) == [3, 2, 5]
    clip = Clip.load(ClipSpec(model=f"open_clip:{tiny_open_clip}"))
    assert clip.max_tokens == 20
    assert clip.num_tokens(["crane", "", "crane, bird"]) == [3, 2, 5]


WORDS = st.lists(st.sampled_from(["zero", "face", "tile", "ink,", "mint", "of", "Blue", "x7"]), max_size=60)


@given(WORDS)
@settings(max_examples=40, deadline=None)
def test_what_is_cut_off_changes_nothing_and_all_else_is_kept(sandbox_clip: Clip, words: list[str]) -> None:
    text = " ".join(words)
    lost = sandbox_clip.truncated(text)
    assert text.endswith(lost)
    assert bool(lost) == (sandbox_clip.num_tokens([text])[0] > sandbox_clip.max_tokens)
    kept = text.removesuffix(lost)
    assert sandbox_clip.truncated(kept) == ""
    assert not lost or sandbox_clip.num_tokens([kept]) == [sandbox_clip.max_tokens]
    both = sandbox_clip.embed_texts([text, kept])
    np.testing.assert_allclose(both[0], both[1], atol=1e-6)


def test_open_clip_names_the_words_that_it_cuts_off(tiny_open_clip: Path) -> None:
    clip = Clip.load(ClipSpec(model=f"open_clip:{tiny_open_clip}"))
    assert clip.truncated("crane, " * 3) == ""
    assert clip.truncated("bird " * 18 + "in a marsh") == "in a marsh"


def test_a_hostile_text_has_a_vector_too(sandbox_clip: Clip) -> None:
    texts = ["", "\x00\x1b[31m", "\u202e{name}", "<|endoftext|> zero", "\U0001f9a9" * 50, "a" * 100_000]
    assert np.isfinite(sandbox_clip.embed_texts(texts)).all()
    assert sandbox_clip.truncated("\U0001f9a9" * 50)


# which model it is


def test_the_digest_is_that_of_weights_and_preprocessing(copy: Path) -> None:
    spec = ClipSpec(model=str(copy))
    first = clip_digest(spec)
    assert first == clip_digest(ClipSpec(model="sandbox/models/clip", batch=7)) == Clip.load(spec).digest
    (copy / "README.md").write_text("more about it")
    assert clip_digest(spec) == first
    processor = json.loads((copy / "processor_config.json").read_text())
    processor["image_processor"]["image_mean"] = [0.4, 0.4, 0.4]
    (copy / "processor_config.json").write_text(json.dumps(processor))
    second = clip_digest(spec)
    weights = load_file(copy / "model.safetensors")
    weights["logit_scale"] = weights["logit_scale"] + 1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert len({first, second, clip_digest(spec)}) == 3


def test_a_hub_model_is_taken_from_the_cache_by_its_commit(
    copy: Path, tiny_open_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for owner, folder in (("someone", copy), ("laion", tiny_open_clip)):
        name = "tiny" if owner == "someone" else "CLIP-ViT-B-16-laion2B-s34B-b88K"
        snapshot = tmp_path / f"models--{owner}--{name}" / "snapshots" / COMMIT
        shutil.copytree(folder, snapshot)
    by_id = Clip.load(ClipSpec(model="someone/tiny", revision=COMMIT))
    assert by_id.embed_texts(TEXTS).shape == (3, 64)
    assert by_id.digest == clip_digest(ClipSpec(model="someone/tiny", revision=COMMIT))
    by_tag = Clip.load(ClipSpec(model="open_clip:ViT-B-16/laion2b_s34b_b88k", revision=COMMIT))
    assert by_tag.embed_texts(TEXTS).shape == (3, WIDTH)
    by_open_clip_id = ClipSpec(model="open_clip:laion/CLIP-ViT-B-16-laion2B-s34B-b88K", revision=COMMIT)
    assert clip_folder(by_open_clip_id) == clip_folder(by_tag.spec)
    missing = refused(ClipSpec(model="open_clip:ViT-B-16/laion2b_s34b_b88k", revision="f" * 40))
    assert f"hf download laion/CLIP-ViT-B-16-laion2B-s34B-b88K --revision {'f' * 40}" in missing


def test_a_model_that_is_not_there_is_refused_with_the_next_step(tmp_path: Path) -> None:
    assert "also give its commit" in refused(ClipSpec(model="openai/clip-vit-base-patch32"))
    assert "40 hex digits" in refused(ClipSpec(model="openai/clip-vit-base-patch32", revision="main"))
    assert "drop the revision" in refused(ClipSpec(model="../x", revision=COMMIT))
    assert "check the path" in refused(ClipSpec(model=str(tmp_path / "nothing")))
    assert "without config.json" in refused(ClipSpec(model=str(tmp_path)))
    assert "without open_clip_config.json" in refused(ClipSpec(model="open_clip:sandbox/models/clip"))
    assert "40 hex digits" in refused(ClipSpec(model="open_clip:ViT-B-16/laion2b_s34b_b88k", revision="main"))


def test_a_device_that_is_not_there_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ValueError, match="torch sees no GPU here"):
        Clip.load(ClipSpec(model="sandbox/models/clip", device="cuda"))


def test_pickled_weights_are_never_opened(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    assert "no weights" in refused(ClipSpec(model=str(copy)))
    (copy / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n.")
    assert "only pytorch_model.bin" in refused(ClipSpec(model=str(copy)))


def test_code_in_the_folder_or_asked_for_by_it_is_refused(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "evil.Model"}}))
    assert "auto_map" in refused(ClipSpec(model=str(copy)))
    (copy / "config.json").write_text(json.dumps({**config, "model_type": "llama"}))
    assert "model type 'llama'" in refused(ClipSpec(model=str(copy)))
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "modeling.py").write_text("print('owned')")
    assert "modeling.py" in refused(ClipSpec(model=str(copy)))


def test_damaged_weights_and_configs_are_refused(copy: Path) -> None:
    whole = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(whole[:-100])
    assert "sound safetensors file" in refused(ClipSpec(model=str(copy)))
    (copy / "model.safetensors").write_bytes(whole)
    for broken in ("{", "[1]", "[" * 100_000, '"' + "x" * 10_100_000 + '"'):
        (copy / "config.json").write_text(broken)
        assert "config.json" in refused(ClipSpec(model=str(copy)))


def test_weights_of_another_shape_are_refused_in_one_line(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["text_config"]["hidden_size"] = 32
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="cannot load") as caught:
        Clip.load(ClipSpec(model=str(copy)))
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_numbers_are_found(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    weights["text_projection.weight"][0, 0] = torch.nan
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="not finite"):
        Clip.load(ClipSpec(model=str(copy))).embed_texts(TEXTS)


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("text_cfg", "hf_model_name", "someone/bert"),
        ("text_cfg", "hf_tokenizer_name", "someone/bert"),
        ("vision_cfg", "timm_model_name", "hf-hub:someone/vit"),
        ("vision_cfg", "timm_model_pretrained", True),
    ],
)
def test_open_clip_is_not_led_to_fetch_a_tower(
    tiny_open_clip: Path, tmp_path: Path, part: str, key: str, value: object
) -> None:
    folder = Path(shutil.copytree(tiny_open_clip, tmp_path / "tiny"))
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"][part][key] = value
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    assert "fetch" in refused(ClipSpec(model=f"open_clip:{folder}"))
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"text_cfg": {}}}))
    assert "no model_cfg" in refused(ClipSpec(model=f"open_clip:{folder}"))

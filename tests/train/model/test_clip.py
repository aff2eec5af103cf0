"""A CLIP that is adapted: what of it is trained, its first logits, the texts of its classes, what is refused."""

import shutil
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from tests.support.tiny_clip import MEAN, SIZE_PX, STD, WIDTH, tiny_open_clip, tiny_transformers
from train.model.adapted_clip import AdaptedClip, build_clip, merged, with_adapters
from train.model.clip import ClipTrainSpec, check_size, input_of, names_of_classes, pinned_clip

NAMES = ("zero", "one", "two", "crane", "crane")
TEMPLATES = ("a photo of {name}.", "{name}, the handwritten numeral")
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("clips")
    return {
        "transformers": str(tiny_transformers(root / "transformers")),
        "open_clip": f"open_clip:{tiny_open_clip(root / 'open-clip')}",
    }


def built(model: str, tune: str, **more: Any) -> AdaptedClip:
    spec = ClipTrainSpec.model_validate({"model": model, "tune": tune, "templates": TEMPLATES, **more})
    return build_clip(spec, NAMES, seed=5)


def pictures(num: int = 6) -> torch.Tensor:
    return torch.randn(num, 3, SIZE_PX, SIZE_PX, generator=torch.Generator().manual_seed(1))


def logits(model: AdaptedClip) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(pictures())


@pytest.mark.parametrize("library", ["transformers", "open_clip"])
def test_the_zero_shot_classifier_is_the_one_that_the_library_itself_would_give(
    folders: dict[str, str], library: str
) -> None:
    """Each text of length 1, their mean of length 1, cosines times exp(logit_scale)."""
    folder = folders[library].removeprefix("open_clip:")
    texts = [[template.replace("{name}", name) for template in TEMPLATES] for name in NAMES]
    with torch.no_grad():
        if library == "open_clip":
            model = open_clip.create_model_from_pretrained(f"local-dir:{folder}", return_transform=False)
            tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
            rows = [model.encode_text(tokenizer(own), normalize=True).mean(0) for own in texts]
            images = model.encode_image(pictures(), normalize=True)
        else:
            model = CLIPModel.from_pretrained(folder)
            tokenizer = CLIPTokenizer.from_pretrained(folder)
            asked = [tokenizer(own, padding=True, return_tensors="pt") for own in texts]
            rows = [F.normalize(model.get_text_features(**one).pooler_output, dim=-1).mean(0) for one in asked]
            images = F.normalize(model.get_image_features(pictures()).pooler_output, dim=-1)
        expected = model.logit_scale.exp() * images @ F.normalize(torch.stack(rows), dim=-1).T
    torch.testing.assert_close(logits(built(folders[library], "zero_shot")), expected, atol=1e-5, rtol=1e-5)


def test_the_mean_may_be_of_texts_as_long_as_the_model_gives_them(folders: dict[str, str]) -> None:
    unit, plain = (built(folders["transformers"], "zero_shot", unit_texts=unit) for unit in (True, False))
    texts = plain._texts(plain.captions_CTL.flatten(0, 1)).unflatten(0, (len(NAMES), -1))
    expected = F.normalize(texts.mean(1), dim=-1) * plain.clip.logit_scale.exp()
    torch.testing.assert_close(plain.zero_shot(), expected)
    assert not torch.allclose(unit.zero_shot(), plain.zero_shot(), atol=1e-4)


@pytest.mark.parametrize(
    ("library", "tune", "text"),
    [
        *(("transformers", tune, None) for tune in ("full", "flyp", "lora")),
        *(("transformers", tune, "frozen") for tune in ("flyp", "lora")),
        *(("open_clip", tune, None) for tune in ("full", "flyp")),
    ],
)
def test_before_the_first_step_logits_are_those_of_the_zero_shot_classifier_bit_by_bit(
    folders: dict[str, str], library: str, tune: str, text: str | None
) -> None:
    assert torch.equal(logits(built(folders[library], tune, text=text)), logits(built(folders[library], "zero_shot")))


def trained(model: AdaptedClip) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_what_is_trained_is_what_the_way_of_tuning_says(folders: dict[str, str]) -> None:
    head = {"head.weight", "head.bias"}
    for library, image in (("transformers", ("clip.vis",)), ("open_clip", ("clip.visual.",))):
        every = {name for name, _ in built(folders[library], "full").named_parameters()} - head
        images = {name for name in every if name.startswith(image)}
        assert trained(built(folders[library], "zero_shot")) == {"idle"}
        assert trained(built(folders[library], "probe")) == head
        assert trained(built(folders[library], "full")) == images | head
        assert trained(built(folders[library], "flyp")) == every
        assert trained(built(folders[library], "flyp", text="frozen")) == images | {"clip.logit_scale"}
    live, frozen = (trained(built(folders["transformers"], "lora", text=text)) for text in ("live", "frozen"))
    assert all(".lora_" in name for name in live)
    assert frozen == {name for name in live if ".vision_model." in name}
    assert len(live) == 2 * len(frozen) == 2 * 2 * 2 * 2  # towers, blocks, q and v, A and B


def test_adapters_of_rank_16_on_q_and_v_of_a_vit_b_16_have_983040_numbers() -> None:
    with torch.device("meta"):
        clip = CLIPModel(CLIPConfig(vision_config={"patch_size": 16}))
        model = with_adapters(clip, ClipTrainSpec(model="unused", tune="lora"))
    sizes = [parameter.numel() for parameter in model.parameters() if parameter.requires_grad]
    assert (len(sizes), sum(sizes)) == (2 * 48, 983_040)


def test_merged_adapters_answer_as_adapters_do(folders: dict[str, str]) -> None:
    model = built(folders["transformers"], "lora", lora={"rank": 4, "alpha": 8})
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.3)
    model.eval()
    plain = merged(model)
    assert not [name for name, _ in plain.named_parameters() if "lora" in name]
    with torch.no_grad():
        before, after = model.clip.get_image_features(pictures()), plain.get_image_features(pictures())
    assert (before.pooler_output - after.pooler_output).abs().max() < 1e-5
    start = logits(built(folders["transformers"], "lora", lora={"rank": 4, "alpha": 8}))
    assert (logits(model) - start).abs().max() > 0.01


def test_a_probe_and_adapters_begin_with_what_the_seed_says(folders: dict[str, str]) -> None:
    for tune in ("probe", "lora"):
        spec = ClipTrainSpec.model_validate({"model": folders["transformers"], "tune": tune})
        one, same, other = (build_clip(spec, NAMES, seed).state_dict() for seed in (1, 1, 2))
        assert all(torch.equal(one[name], same[name]) for name in one)
        assert not all(torch.equal(one[name], other[name]) for name in one)


# classes


def test_a_class_has_the_texts_of_its_id_also_where_two_share_a_name(folders: dict[str, str]) -> None:
    spec = ClipTrainSpec(model=folders["transformers"], tune="zero_shot", templates=TEMPLATES)
    told = {4: "crane", 3: "crane", 2: "two", 1: "one", 0: "zero"}
    names = names_of_classes(spec, told, [0, 4])
    assert names == NAMES
    rows = build_clip(spec, names, 0).zero_shot()
    assert torch.equal(rows[3], rows[4])
    other = build_clip(spec, ("one", "zero", *NAMES[2:]), 0).zero_shot()
    torch.testing.assert_close(other[[1, 0, 2, 3, 4]], rows)


def test_a_recipe_may_name_a_class_otherwise_and_every_id_needs_a_name() -> None:
    spec = ClipTrainSpec(model="unused", names={1: "the digit one", 2: "two"})
    assert names_of_classes(spec, {0: "zero", 1: "one"}, [1]) == ("zero", "the digit one", "two")
    with pytest.raises(ValueError, match=r"^clip\.names: found no name of class 3 in the data, .*clip\.names\.3=NAME$"):
        names_of_classes(spec, {0: "zero", 4: "four"}, [4])


# pictures and weights


@pytest.mark.parametrize("library", ["transformers", "open_clip"])
def test_pictures_are_normalised_and_sized_as_the_files_beside_the_weights_say(
    folders: dict[str, str], library: str
) -> None:
    spec = ClipTrainSpec(model=folders[library])
    found = input_of(spec)
    assert (found.size_px, found.crop_pct) == (SIZE_PX, 1.0)
    assert ([*found.normal.mean], [*found.normal.std]) == (MEAN, STD)
    with pytest.raises(ValueError, match=rf"^data\.size_px: found 64, expected {SIZE_PX}, .*set data\.size_px=32$"):
        check_size(spec, 64)


def test_a_model_that_is_not_the_one_the_training_began_with_is_refused(tmp_path: Path) -> None:
    spec = pinned_clip(ClipTrainSpec(model=str(tiny_transformers(tmp_path / "clip"))))
    shutil.move(tmp_path / "clip", tmp_path / "moved")
    moved = spec.model_copy(update={"model": str(tmp_path / "moved")})
    assert build_clip(moved, NAMES, 0).head is not None
    tiny_transformers(tmp_path / "moved", seed=1)
    with pytest.raises(ValueError, match=r"^clip\.model: found .* the model that this training began with; bring it"):
        build_clip(moved, NAMES, 0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tune": "full", "text": "live"}, "clip.text: found live with tune: full, .*; set tune: flyp or lora"),
        ({"tune": "probe", "wise_alpha": 0.5}, "clip.wise_alpha: found 0.5 with tune: probe, expected null"),
        ({"templates": ["a photo"]}, "clip.templates: found .a photo., expected a text with {name} in it"),
        ({"tune": "lora", "model": "open_clip:ViT-B-16/laion2b_s34b_b88k"}, "clip.tune: found lora with a model of o"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said) as refused:
        ClipTrainSpec.model_validate({"model": "unused", **changes})
    assert "\n" not in str(refused.value.errors()[0]["ctx"]["error"])


@pytest.mark.parametrize("library", ["transformers", "open_clip"])
def test_a_text_whose_end_the_model_would_not_read_is_refused(folders: dict[str, str], library: str) -> None:
    long = ["{name}", "{name}" + ", zero" * 40]
    with pytest.raises(
        ValueError, match=r"^clip\.templates: found .* tokens, expected at most (32|12), which this CLIP"
    ):
        built(folders[library], "full", templates=long)


def test_the_width_of_the_classifier_is_the_models(folders: dict[str, str]) -> None:
    for tune in ("full", "probe"):
        head = built(folders["transformers"], tune).head
        assert head is not None
        assert head.weight.shape == (len(NAMES), WIDTH)

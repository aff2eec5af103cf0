"""A training that adapts a CLIP, in each way: what it leaves, that it goes on and spreads as every training does."""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip.loss import ClipLoss
from peft import PeftModel
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel

from cluster.ranks.group import Ranks
from cluster.ranks.place import find_place
from shards.stream.index import load_index
from shards.stream.read_all import read_all
from shards.stream.spec import EvalSpec
from shards.stream.stream import Batch, Stream
from tests.support.rank_pair import Pair
from tests.support.small_data_set import CLASS_NAMES, picture
from tests.support.small_training import last_state, small_recipe, train_alone, write_sets
from tests.support.tiny_clip import MEAN, SIZE_PX, STD, tiny_open_clip, tiny_transformers
from train.evaluate.data_check import open_domains
from train.evaluate.existing import measure_on, open_on
from train.evaluate.results import read_results
from train.evaluate.subject import open_subject
from train.model.adapted_clip import build_clip
from train.model.clip import ClipTrainSpec
from train.recipe import TrainRecipe, recipe_digest
from train.task.adapt_clip import adapt_clip

CPU = torch.device("cpu")
PARTS = ("model.safetensors", "optimizer.safetensors", "chosen.safetensors")
TOLERANCE = 2e-6  # of weights, after four steps in fp32: sums over ranks are taken in another order
TEMPLATES = ["a photo of {name}.", "{name}, the handwritten numeral"]
GROWING = [{"name": "real", "source": "anywhere", "quota": 4, "grow": True}]
STILL = {"scale": [1.0, 1.0], "ratio": [1.0, 1.0], "flip": 0}  # no augmentation
WAYS = [
    *(("transformers", tune, None) for tune in ("zero_shot", "full", "flyp", "probe", "lora")),
    *(("transformers", tune, "frozen") for tune in ("flyp", "lora")),
    *(("open_clip", tune, None) for tune in ("zero_shot", "full", "flyp", "probe")),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data sets, and a tiny CLIP of each library."""
    folder = tmp_path_factory.mktemp("sets")
    write_sets(folder)
    tiny_transformers(folder / "transformers")
    tiny_open_clip(folder / "open_clip")
    return folder


def asked(data: Path, library: str, tune: str, **changes: Any) -> TrainRecipe:
    """Two steps of two groups of 4 real and 4 synthetic pictures."""
    model = ("open_clip:" if library == "open_clip" else "") + str(data / library)
    told = small_recipe(data).model_dump(mode="json") | {"task": "clip", "model": None}
    told["clip"] = {"model": model, "tune": tune, "templates": TEMPLATES}
    told["clip"] |= changes.pop("clip", {})
    told["data"] |= {"size_px": SIZE_PX, "augment": STILL if tune == "probe" else {"flip": 0}}
    told["optim"] = {"lr": 0.001, "betas": [0.9, 0.95], "clip_grad": 1.0, "weight_decay": 0.1}
    told["schedule"] = {"groups": 2, "steps": 2, "epoch_steps": 1}
    told["evaluate"]["crop_pct"] = 1.0
    for name, value in changes.items():
        place, _, field = name.partition("__")
        told[place] = {**told[place], field: value} if field else value
    return TrainRecipe.model_validate(told)


def pixels() -> Tensor:
    return torch.randn(5, 3, SIZE_PX, SIZE_PX, generator=torch.Generator().manual_seed(3))


def features(model: Any) -> Tensor:
    """Of the test's pictures, by the library's own call."""
    with torch.no_grad():
        if hasattr(model, "encode_image"):
            return F.normalize(model.eval().encode_image(pixels()), dim=-1)
        return F.normalize(model.eval().get_image_features(pixel_values=pixels()).pooler_output, dim=-1)


def loaded(run: Path, library: str) -> Any:
    if library == "open_clip":
        return open_clip.create_model_from_pretrained(f"local-dir:{run / 'model'}", return_transform=False)
    return CLIPModel.from_pretrained(run / "model")


def answers(run: Path, library: str) -> Tensor:
    """Logits of the exported model as a reader makes them."""
    head = load_file(run / "classifier.safetensors")
    return features(loaded(run, library)) @ head["weight"].T + head["bias"]


def started(recipe: TrainRecipe) -> Any:
    """The Task after it has seen its data."""
    task = adapt_clip(recipe)
    with Ranks(find_place({})) as ranks:
        task.check_data(open_domains(recipe.data.domains, None, recipe.data.class_list), ranks)
    return task


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # of peft, when it loads an adapter
@pytest.mark.parametrize(("library", "tune", "text"), WAYS)
def test_each_way_trains_and_the_library_itself_loads_the_export_to_the_same_logits(
    data: Path, tmp_path: Path, library: str, tune: str, text: str | None
) -> None:
    recipe, run = asked(data, library, tune, clip={"text": text}), tmp_path / "run"
    outcome = train_alone(recipe, run)
    assert (outcome.exit_code, outcome.step) == (0, 2)
    results = read_results(run / "results.jsonl").results
    assert {line.role for line in results if line.selected} == {"validation", "test"}
    task = started(recipe)
    kept = last_state(run, "chosen.safetensors")
    with torch.no_grad():
        ours = task.finished(kept, CPU)(pixels())
    assert (answers(run, library) - ours).abs().max() < 1e-5
    before = task.keep(task.build(CPU))
    moved = {name for name in kept if not torch.equal(kept[name], before[name])}
    assert not moved if tune == "zero_shot" else moved
    about = json.loads((run / "clip.json").read_text())
    assert about["class_names"] == {str(number): name for number, name in enumerate(CLASS_NAMES)}
    assert (about["mean"], about["std"], about["size_px"], about["tune"]) == (MEAN, STD, SIZE_PX, tune)
    if tune == "lora":
        base = CLIPModel.from_pretrained(data / library)
        adapted = PeftModel.from_pretrained(base, run / "adapter")
        assert (features(adapted) - features(loaded(run, library))).abs().max() < 1e-5
    # what was exported is a CLIP to go on from
    again = ClipTrainSpec.model_validate({**recipe.clip.model_dump(), "model": str(run / "model"), "digest": None})
    if library == "transformers":
        assert build_clip(again.model_copy(update={"tune": "full"}), CLASS_NAMES, 0).head is not None


def test_zero_shot_weights_are_those_of_the_clip(data: Path, tmp_path: Path) -> None:
    assert train_alone(asked(data, "transformers", "zero_shot"), tmp_path / "run").exit_code == 0
    before, after = CLIPModel.from_pretrained(data / "transformers"), loaded(tmp_path / "run", "transformers")
    assert all(torch.equal(after.state_dict()[name], tensor) for name, tensor in before.state_dict().items())


@pytest.mark.parametrize("tune", ["full", "flyp", "probe", "lora"])
def test_stopped_it_goes_on_to_the_same_bits(data: Path, tmp_path: Path, tune: str) -> None:
    """Dropout of adapters, captions and a moving average included; features of a probe are taken anew."""
    recipe = asked(data, "transformers", tune, schedule__steps=4, schedule__epoch_steps=2, optim__ema_decay=0.9)
    assert train_alone(recipe, tmp_path / "whole").exit_code == 0
    assert train_alone(recipe, tmp_path / "run", looks=3).exit_code == 75
    assert train_alone(recipe, tmp_path / "run").exit_code == 0
    for part in (*PARTS, "ema.safetensors"):
        one, other = last_state(tmp_path / "run", part), last_state(tmp_path / "whole", part)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    sentence = train_alone(recipe, tmp_path / "run").sentence()
    assert "nothing was left to do; top-1: one " in sentence
    assert f"clip.model={tmp_path / 'run' / 'model'} starts there from these weights" in sentence


@pytest.mark.parametrize("engine", [{"kind": "ddp"}, {"kind": "deepspeed", "zero": 2}], ids=["ddp", "zero2"])
@pytest.mark.timeout(600)
def test_two_ranks_train_what_one_process_trains(data: Path, tmp_path: Path, engine: dict[str, Any]) -> None:
    pair = Pair(tmp_path)
    calm = {"optim": {"optimizer": "sgd", "lr": 0.01, "clip_grad": 1.0}, "schedule__steps": 4}
    recipes = {
        tune: asked(data, "transformers", tune, clip={"lora": {"rank": 4, "dropout": 0}}, **calm)
        for tune in ("full", "flyp", "probe", "lora")
    }
    for tune, recipe in recipes.items():
        spread = recipe.model_copy(update={"engine": recipe.engine.model_copy(update=engine)})
        pair.add(tune, [spread] * 2, f"two-{tune}")
        assert train_alone(recipe, tmp_path / f"one-{tune}").exit_code == 0
    pair.run()
    for tune in recipes:
        assert pair.said(tune) == ["0", "0"]
        found, wanted = (last_state(tmp_path / f"{ranks}-{tune}") for ranks in ("two", "one"))
        start = started(recipes[tune]).build(CPU).state_dict()
        assert max(float((wanted[name] - start[name]).abs().max()) for name in wanted) > 100 * TOLERANCE
        assert max(float((found[name] - wanted[name]).abs().max()) for name in wanted) < TOLERANCE


@pytest.mark.parametrize("tune", ["full", "flyp", "probe", "lora"])
def test_half_precision_trains_near_the_full_one_and_keeps_fp32_weights(data: Path, tmp_path: Path, tune: str) -> None:
    calm = {"optim": {"optimizer": "sgd", "lr": 0.01, "clip_grad": 1.0}, "schedule__steps": 4}
    recipe = asked(data, "transformers", tune, clip={"lora": {"rank": 4, "dropout": 0}}, **calm)
    half = recipe.model_copy(update={"engine": recipe.engine.model_copy(update={"dtype": "bf16"})})
    assert train_alone(recipe, tmp_path / "whole").exit_code == 0
    assert train_alone(half, tmp_path / "half").exit_code == 0
    start = started(recipe).build(CPU).state_dict()
    found, wanted = last_state(tmp_path / "half"), last_state(tmp_path / "whole")
    assert {found[name].dtype for name in found} == {start[name].dtype for name in found}
    way = max(float((wanted[name] - start[name]).abs().max()) for name in wanted)
    assert 0 < max(float((found[name] - wanted[name]).abs().max()) for name in wanted) < way / 2


# the contrastive loss and the probe


def first_batch(recipe: TrainRecipe) -> Batch:
    with Stream(
        recipe.data, groups=recipe.schedule.groups, seed=recipe.seed, epoch_steps=1, rank=0, world=1, state=None
    ) as stream:
        return next(stream)


def test_the_contrastive_loss_is_that_of_open_clip_on_pictures_and_captions_of_their_classes(data: Path) -> None:
    """Other pictures of a class are as wrong as those of other classes, as in FLYP."""
    recipe = asked(data, "open_clip", "flyp", clip={"templates": TEMPLATES[:1]}, optim__loss="pooled")
    task, batch = started(recipe), first_batch(recipe)
    assert len(set(batch.labels.tolist())) < len(batch.labels)
    model = task.build(CPU)
    with Ranks(find_place({})) as ranks:
        loss = task.loss(model, batch, CPU, ranks)
    theirs = open_clip.create_model_from_pretrained(f"local-dir:{data / 'open_clip'}", return_transform=False)
    tokens = open_clip.get_tokenizer(f"local-dir:{data / 'open_clip'}")(
        [f"a photo of {CLASS_NAMES[label]}." for label in batch.labels]
    )
    expected = ClipLoss()(
        theirs.encode_image(torch.stack([as_input(image) for image in batch.images]), normalize=True),
        theirs.encode_text(tokens, normalize=True),
        theirs.logit_scale.exp(),
    )
    torch.testing.assert_close(loss.total, expected)
    loss.total.backward()
    expected.backward()
    for (name, one), other in zip(model.clip.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-4, msg=name)


def test_each_picture_draws_one_of_the_templates_in_each_step(data: Path) -> None:
    recipe = asked(data, "transformers", "flyp")
    task, batch = started(recipe), first_batch(recipe)
    seen: list[list[int]] = []

    def forward(images: Tensor, captions_N: Tensor) -> Any:
        seen.append((captions_N - torch.from_numpy(batch.labels) * len(TEMPLATES)).tolist())
        rows = torch.ones(len(images), 2)
        return rows, rows, torch.ones(())

    with Ranks(find_place({})) as ranks:
        for step in (0, 0, 1):
            task.loss(forward, Batch(**{**batch.__dict__, "step": step}), CPU, ranks)
    assert seen[0] == seen[1] != seen[2]
    assert set(seen[0]) == {0, 1}


def test_features_that_a_probe_takes_once_are_those_of_its_pictures_as_they_are_measured(data: Path) -> None:
    recipe = asked(data, "transformers", "probe")
    task, batch = started(recipe), first_batch(recipe)
    model = task.build(CPU)
    given: list[Tensor] = []

    def forward(features_ND: Tensor) -> Tensor:
        given.append(features_ND)
        return model(features_ND)

    with Ranks(find_place({})) as ranks:
        loss = task.loss(forward, batch, CPU, ranks)
    by_uid = {uid: one for name in ("real", "synthetic") for uid, one, _ in _pictures_of(data / name)}
    images = torch.stack([as_input(by_uid[uid]) for uid in batch.uids.tolist()])
    expected = model.image_features(images)
    torch.testing.assert_close(given[0], expected)
    logits = expected @ model.head.weight.T + model.head.bias
    each = F.cross_entropy(logits, torch.from_numpy(batch.labels), reduction="none").view(2, 8)
    torch.testing.assert_close(loss.total, (each[:, :4].mean() + each[:, 4:].mean()) / 2)


def test_a_linear_probe_on_the_adapted_encoder_is_measured_beside_its_own_classifier(
    data: Path, tmp_path: Path
) -> None:
    """As scikit-learn's, of as little weight decay: the features of the export separate the classes as well."""
    ask = {"probe": {"epochs": 300, "batch": 8, "lr": 0.1, "weight_decay": 0.0, "warmup_steps": 10}}
    recipe = asked(data, "transformers", "full", clip=ask)
    sentence = train_alone(recipe, tmp_path / "run").sentence()
    results = read_results(tmp_path / "run" / "results.jsonl").results
    own, probe = (one for one in results if one.role == "test")
    assert (own.branch, probe.branch, own.n) == (None, "linear probe", probe.n)
    assert f"one {100 * own.top1:.2f} % ({100 * probe.top1:.2f} % by a linear probe)" in sentence
    model = loaded(tmp_path / "run", "transformers").eval()

    def seen(*names: str) -> tuple[np.ndarray, np.ndarray]:
        rows = [row for name in names for row in _pictures_of(data / name)]
        with torch.no_grad():
            found = model.get_image_features(pixel_values=torch.stack([as_input(row[1]) for row in rows]))
        return F.normalize(found.pooler_output, dim=-1).numpy(), np.array([row[2] for row in rows])

    theirs = LogisticRegression(C=1e4, max_iter=5000).fit(*seen("real", "synthetic"))
    assert probe.top1 == pytest.approx(theirs.score(*seen("held-out")), abs=0.15)


# WiSE-FT


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_what_is_exported_lies_at_alpha_between_zero_shot_and_trained_weights(
    data: Path, tmp_path: Path, tune: str
) -> None:
    def trained(alpha: float | None) -> dict[str, Tensor]:
        out = tmp_path / f"run-{alpha}"
        recipe = asked(data, "transformers", tune, clip={"wise_alpha": alpha}, evaluate__validation=None)
        assert train_alone(recipe, out).exit_code == 0
        return loaded(out, "transformers").state_dict() | (
            load_file(out / "classifier.safetensors") if tune == "full" else {}
        )

    start = CLIPModel.from_pretrained(data / "transformers").state_dict()
    if tune == "full":
        head = build_clip(asked(data, "transformers", "full").clip, CLASS_NAMES, 0).head
        start |= {"weight": head.weight.detach(), "bias": head.bias.detach()}
    end, none, half = trained(None), trained(0.0), trained(0.5)
    assert all(torch.equal(none[name], start[name]) for name in start)
    assert not all(torch.equal(end[name], start[name]) for name in start)
    for name in start:
        torch.testing.assert_close(half[name], (start[name] + end[name]) / 2, atol=1e-6, rtol=1e-5)


# classes


def test_ids_decide_which_class_a_row_is_of_and_not_the_order_of_folders(tmp_path: Path) -> None:
    tiny_transformers(tmp_path / "clip")
    for number, name in enumerate(("zero", "one", "crane")):
        for split, first in (("train", 0), ("test", 50)):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for index in range(first, first + 4):
                Image.fromarray(picture(number, index)).save(folder / f"{name}-{index}.png")
    (tmp_path / "classes.txt").write_text("zero\none\ncrane\n")
    rows = {}
    for order, classes in (("listed", str(tmp_path / "classes.txt")), ("sorted", None)):
        told = {
            "name": order,
            "task": "clip",
            "clip": {"model": str(tmp_path / "clip"), "tune": "zero_shot", "names": {0: "nought"}},
            "data": {
                "domains": [{"name": "real", "source": str(tmp_path / "train"), "quota": 2}],
                "size_px": SIZE_PX,
                "classes": classes,
            },
            "optim": {"lr": 0.1},
            "schedule": {"steps": 1, "epoch_steps": 1},
            "evaluate": {"crop_pct": 1.0, "tests": {"test": {"source": str(tmp_path / "test")}}},
            "log": "none",
        }
        assert train_alone(TrainRecipe.model_validate(told), tmp_path / order).exit_code == 0
        about = json.loads((tmp_path / order / "clip.json").read_text())
        weight = load_file(tmp_path / order / "classifier.safetensors")["weight"]
        rows[order] = {about["class_names"][str(number)]: row for number, row in enumerate(weight)}
        said = list(about["class_names"].values())
        assert said == (["nought", "one", "crane"] if classes else ["nought", "one", "zero"])
    torch.testing.assert_close(rows["listed"]["one"], rows["sorted"]["one"])


# what is refused, and digests


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schedule__groups": 2, "engine__accumulate": 2}, "engine.accumulate: found 2 with clip.tune: flyp, .*"),
        ({"data__mix": {"mixup_alpha": 0.2}}, "data.mix: found mixed pictures with clip.tune: flyp, expected none"),
        ({"data__domains": GROWING, "clip": {"probe": {}}}, "data.domains: found grow: true of real with a linear pr"),
        ({"clip": {"wise_alpha": 2}}, "less than or equal to 1"),
        ({"task": "classify"}, "model: found none with task classify, expected one"),
    ],
)
def test_a_recipe_whose_parts_do_not_go_together_is_refused(data: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        asked(data, "transformers", "flyp", **changes)


def test_pictures_of_another_size_and_a_class_without_a_name_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^data\.size_px: found 64, expected 32, the input of .*"):
        train_alone(asked(data, "transformers", "full", data__size_px=64), tmp_path / "run")
    with pytest.raises(ValueError, match=r"^clip\.names: found no name of class 5 in the data"):
        train_alone(asked(data, "transformers", "full", clip={"names": {6: "six"}}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_clip_may_move_and_may_not_change(data: Path, tmp_path: Path) -> None:
    recipe = asked(data, "transformers", "full")
    digest = recipe_digest(recipe)
    shutil.copytree(data / "transformers", tmp_path / "moved")
    moved = partial(asked, data, "transformers", "full")
    assert recipe_digest(moved(clip={"model": str(tmp_path / "moved")})) == digest
    tiny_transformers(tmp_path / "moved", seed=1)
    assert recipe_digest(moved(clip={"model": str(tmp_path / "moved")})) != digest
    assert recipe_digest(moved(clip={"tune": "flyp"})) != digest


@pytest.mark.parametrize(("library", "tune"), [("open_clip", "full"), ("transformers", "probe")])
def test_a_test_set_is_counted_alike_by_the_training_the_reader_of_its_export_and_sixfold_evaluate(
    data: Path, tmp_path: Path, library: str, tune: str
) -> None:
    assert train_alone(asked(data, library, tune), tmp_path / "run").exit_code == 0
    (line,) = [one for one in read_results(tmp_path / "run" / "results.jsonl").results if one.role == "test"]
    head = load_file(tmp_path / "run" / "classifier.safetensors")
    model = loaded(tmp_path / "run", library).eval()
    seen = []
    for _, image, label in _pictures_of(data / "held-out"):
        with torch.no_grad():
            if library == "open_clip":
                features_D = model.encode_image(as_input(image)[None])[0]
            else:
                features_D = model.get_image_features(pixel_values=as_input(image)[None]).pooler_output[0]
            logits_C = head["weight"] @ F.normalize(features_D, dim=0) + head["bias"]
        seen.append(int(logits_C.argmax()) == label)
    assert line.n == len(seen)
    assert line.top1 == pytest.approx(np.mean(seen))
    subject = open_subject(str(tmp_path / "run"))
    sets, _ = open_on(subject, [str(data / "held-out")], None, "all")
    (report,) = measure_on(subject, sets, 4, CPU, lambda line: None)
    assert (report.counts.n, report.counts.top1) == (line.n, line.top1)
    assert [one.name for one in subject.classes] == list(CLASS_NAMES)


def as_input(image: np.ndarray) -> Tensor:
    """3 S S of one picture S S 3, normalised as the tiny models want it."""
    return ((torch.from_numpy(image) / 255 - torch.tensor(MEAN)) / torch.tensor(STD)).permute(2, 0, 1)


def _pictures_of(folder: Path) -> list[tuple[int, np.ndarray, int]]:
    """Id, picture and label of each sample, as a set is measured."""
    reading = EvalSpec(source=str(folder), size_px=SIZE_PX, crop_pct=1.0)
    return [
        (int(batch.uids[number]), batch.images[number].copy(), int(batch.labels[number]))
        for batch in read_all(reading, load_index(str(folder)), 8)
        for number in np.flatnonzero(batch.valid)
    ]

"""Style inversion as a Task: new rows are learned and nothing else moves, whatever interrupts it, on any number of
ranks; diffusers loads the result."""

import hashlib
import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import sixfold
from cluster.ranks.group import Ranks
from cluster.ranks.host import free_port
from cluster.ranks.place import find_place
from cluster.recipes.load import RecipeError, dump_recipe, load_recipe
from gen.invert.inversion import Generator, Inversion
from gen.invert.spec import InvertSpec, open_generator, pinned_generator
from gen.model.folder import ModelError, model_digest
from gen.model.style_token import open_style_token
from gen.sampler.sampler import Sampler
from gen.sampler.spec import SamplerSpec
from shards.disk.home import home
from tests.support import warm
from tests.support.inversions import FAMILIES, inversion, pipeline_of
from tests.support.rank_environment import rank_environment
from tests.support.small_data_set import CLASS_NAMES, Change, write_data_set, write_foreign
from tests.support.small_training import NEVER, StopAfter, last_state, train_alone, write_sets
from train.evaluate.data_check import open_domains
from train.evaluate.results import read_results
from train.recipe import TrainRecipe, recipe_digest
from train.session.in_folder import train_in_folder
from train.session.run_folder import look
from train.task.facts import FACTS
from train.task.invert import invert

# diffusers' own, under NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

ENCODERS = {"sd": 1, "sd2": 1, "sdxl": 2, "sd3": 2, "flux": 1}
TEXTS = ["a photo of one in the style of <style>", "a crane", "<style>"]
RANKS_TOLERANCE = 2e-5  # of rows after two steps of AdamW, whose first moves do not depend on a gradient's size


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    write_sets(folder)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pipelines")
    return {family: pipeline_of(family, root / family) for family in FAMILIES}


@pytest.fixture(scope="module")
def whole(data: Path, models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An inversion that nobody disturbed, of two vectors."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert train_alone(inversion(data, models["sd"], invert__vectors=2), out).exit_code == 0
    return out


def rows_of(out: Path) -> dict[str, torch.Tensor]:
    """Every file of rows in the folder of a token."""
    return {
        f"{file.relative_to(out)}: {name}": tensor
        for file in sorted(out.rglob("learned_embeds*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def encoded(pipeline: Any, family: str, texts: list[str]) -> list[torch.Tensor]:
    """What the pipeline's own `encode_prompt` says."""
    cpu = torch.device("cpu")
    with torch.no_grad():
        if family == "flux":
            return list(pipeline.encode_prompt(texts, device=cpu)[:2])
        told = pipeline.encode_prompt(texts, device=cpu, num_images_per_prompt=1, do_classifier_free_guidance=False)
    return [told[0], told[2]] if family == "sdxl" else [told[0]]


@pytest.mark.parametrize(
    ("family", "vectors"), [("sd", 1), ("sd", 2), ("sd2", 1), ("sdxl", 1), ("sdxl", 2), ("sd3", 2), ("flux", 2)]
)
def test_every_family_learns_rows_that_diffusers_loads_to_the_same_texts(
    data: Path, models: dict[str, Path], tmp_path: Path, family: str, vectors: int
) -> None:
    out = tmp_path / "run"
    assert train_alone(inversion(data, models[family], invert__vectors=vectors), out).exit_code == 0
    files = ["learned_embeds.safetensors", "learned_embeds_2.safetensors"][: ENCODERS[family]]
    for name in files:
        learned, before = load_file(out / name), load_file(out / "untrained" / name)
        assert learned.keys() == before.keys() == {"<style>"}
        assert learned["<style>"].shape == (vectors, 32)
        moved = (learned["<style>"] - before["<style>"]).abs()
        assert float(moved.amax(1).min()) > 0, "every row moved"
        assert torch.equal(before["<style>"], before["<style>"][:1].expand(vectors, -1)), "all start alike"
    if family == "sd3":
        return  # its pipeline takes no learned words; ours gives them to its encoders
    kind = json.loads((models[family] / "model_index.json").read_text())["_class_name"]
    theirs = getattr(diffusers, kind).from_pretrained(models[family])
    theirs.load_textual_inversion(str(out))
    if len(files) == 2:
        second = {"text_encoder": theirs.text_encoder_2, "tokenizer": theirs.tokenizer_2}
        theirs.load_textual_inversion(str(out), weight_name=files[1], **second)
    spec = SamplerSpec(model=str(models[family]), size_px=64, style_token=str(out), style_rows="learned")
    ours = Sampler.load(spec)._encode(TEXTS)
    for one, other in zip(ours.values(), encoded(theirs, family, TEXTS), strict=True):
        assert torch.equal(one, other)
    plain = Sampler.load(spec.model_copy(update={"style_rows": "untrained"}))._encode(TEXTS)
    assert not torch.equal(
        plain["pooled_prompt_embeds" if family == "flux" else "prompt_embeds"], list(ours.values())[-1]
    )


def test_the_sampler_says_what_the_training_said(whole: Path, data: Path, models: dict[str, Path]) -> None:
    task = invert(inversion(data, models["sd"], invert__vectors=2))
    with Ranks(find_place({})) as ranks:
        recipe = task.recipe
        task.check_data(open_domains(recipe.data.domains, None, recipe.data.class_list), ranks)
    chosen = {"rows.text_encoder": load_file(whole / "learned_embeds.safetensors")["<style>"].unsqueeze(0)}
    model = task.finished(chosen, torch.device("cpu"))
    assert isinstance(model, Inversion)
    with model.generator.using(dict(model.rows.items())), torch.no_grad():
        told = model.generator.encode(TEXTS)["prompt_embeds"]
    spec = SamplerSpec(model=str(models["sd"]), size_px=64, style_token=str(whole), style_rows="learned")
    assert torch.equal(told, Sampler.load(spec)._encode(TEXTS)["prompt_embeds"])


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_nothing_of_the_generator_moves_and_checkpoints_hold_rows_alone(
    data: Path, models: dict[str, Path], tmp_path: Path, family: str
) -> None:
    recipe = inversion(data, models[family], optim__weight_decay=0.5, invert__checkpointing=True)
    task = invert(recipe)
    with Ranks(find_place({})) as ranks:
        outcome = train_in_folder(recipe, task, tmp_path / "run", home(), StopAfter(NEVER), ranks)
    assert outcome.exit_code == 0
    pipeline = task.generator.pipeline
    num = 0
    for part in ("text_encoder", "text_encoder_2", "unet", "transformer", "vae"):
        if (module := getattr(pipeline, part, None)) is not None:
            (file,) = (models[family] / part).glob("*.safetensors")
            for name, tensor in load_file(file).items():
                now = module.state_dict().get(name)
                if now is not None:
                    assert torch.equal(now[: len(tensor)] if tensor.ndim else now, tensor), name
                    num += 1
    assert num > 50
    encoders = {f"rows.{one}" for one in ("text_encoder", "text_encoder_2")[: ENCODERS[family]]}
    assert last_state(tmp_path / "run").keys() == encoders


def test_rows_without_a_gradient_stay_as_they_are_whatever_the_decay(
    data: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    """One step on one picture, hence of one group: no weight decay moves the row of the other."""
    groups = {"seen": ["zero", "one", "two"], "cranes": ["crane"]}
    changes: dict[str, Any] = {"invert__tokens": "group", "invert__groups": groups, "optim__weight_decay": 0.5}
    changes |= {"schedule__groups": 1, "schedule__steps": 1, "schedule__epoch_steps": 1, "data__domains__0__quota": 1}
    assert train_alone(inversion(data, models["sd"], **changes), tmp_path / "run").exit_code == 0
    learned = rows_of(tmp_path / "run")
    moved = [
        not torch.equal(learned[f"style-{one}/learned_embeds.safetensors: <style-{one}>"],
                        learned[f"style-{one}/untrained/learned_embeds.safetensors: <style-{one}>"])
        for one in groups
    ]  # fmt: skip
    assert moved.count(True) == 1, "that of the one picture"
    token = open_style_token(tmp_path / "run")
    assert [token.word_of(name, 0) for name in ("two", "crane")] == ["<style-seen>", "<style-cranes>"]


def test_an_untrained_word_is_the_mean_row_of_the_words_it_starts_from(whole: Path, models: dict[str, Path]) -> None:
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(models["sd"])
    ids = pipeline.tokenizer("ink", add_special_tokens=False)["input_ids"]
    mean = pipeline.text_encoder.get_input_embeddings().weight[ids].mean(0)
    assert torch.equal(load_file(whole / "untrained" / "learned_embeds.safetensors")["<style>"], mean.repeat(2, 1))


def test_results_count_pictures_that_came_nearer_and_the_log_tells_the_loss_by_time(whole: Path) -> None:
    chosen, *_ = [line for line in read_results(whole / "results.jsonl").results if line.selected]
    assert chosen.n == 6
    log = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    told = [row for row in log if row["kind"] == "validation"]
    assert [row["step"] for row in told] == [1, 2]
    for row in told:
        bands = [row[f"loss_band_{band}"] for band in range(4)]
        assert row["loss"] == pytest.approx(sum(bands) / 4)
    assert len({row["loss_untrained"] for row in told}) == 1, "measured with the same noise each time"


def test_a_result_line_has_the_score_that_chooses_and_people_are_told_the_share(
    whole: Path, data: Path, models: dict[str, Path]
) -> None:
    lines = read_results(whole / "results.jsonl").results
    log = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["loss"] for row in log if row["kind"] == "validation"}
    validation = {line.step: line for line in lines if line.role == "validation"}
    assert {step: line.score for step, line in validation.items()} == {
        step: pytest.approx(1 / (1 + loss)) for step, loss in losses.items()
    }
    chosen = validation[min(losses, key=losses.__getitem__)]
    assert chosen.selected
    again = train_alone(inversion(data, models["sd"], invert__vectors=2), whole).sentence()
    assert f"pictures nearer than with the untrained word: validation {100 * chosen.top1:.2f} %" in again


def test_stopped_after_a_step_it_goes_on_to_the_same_bits(
    data: Path, models: dict[str, Path], whole: Path, tmp_path: Path
) -> None:
    recipe = inversion(data, models["sd"], invert__vectors=2)
    assert train_alone(recipe, tmp_path / "run", 2).exit_code == 75
    assert train_alone(recipe, tmp_path / "run").exit_code == 0
    one, other = rows_of(tmp_path / "run"), rows_of(whole)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in other)
    assert "nothing was left to do" in train_alone(recipe, tmp_path / "run").sentence()


def bytes_of(out: Path) -> dict[str, bytes]:
    """The files of a token, relative to its folder."""
    files = [*out.rglob("learned_embeds*.safetensors"), out / "token.json"]
    return {str(file.relative_to(out)): file.read_bytes() for file in files}


@pytest.mark.torture
@pytest.mark.timeout(1200)
def test_killed_at_five_random_moments_it_ends_with_the_same_files(
    data: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    seed = int(os.environ.get("SEED", "0"))
    print(f"seed {seed}")
    rng, steps, kills = random.Random(seed), 60, 5
    many = {"schedule__steps": steps, "schedule__epoch_steps": 15, "checkpoint__every_min": 1e-9}
    recipe = inversion(data, models["sd"], invert__vectors=2, **many)
    assert train_alone(recipe, tmp_path / "whole").exit_code == 0
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    out = tmp_path / "run"
    for number in range(kills):
        child = warm.start(["-m", "sixfold", "invert", str(tmp_path / "recipe.yaml"), "--out", str(out)])
        target = 1 + int((number + rng.random()) / kills * (steps - 2))
        deadline = time.monotonic() + 300
        while child.poll() is None and saved_step(out) < target:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(rng.random() * 0.02)
        child.send_signal(signal.SIGKILL)
        child.wait(timeout=30)
        assert child.returncode == -signal.SIGKILL, child.said()
    assert train_alone(recipe, out).exit_code == 0
    assert bytes_of(out) == bytes_of(tmp_path / "whole")


def saved_step(out: Path) -> int:
    """Of the last checkpoint that the log tells of; 0 for none."""
    text = (out / "log.jsonl").read_text() if (out / "log.jsonl").is_file() else ""
    rows = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return max((row["step"] for row in rows if row["kind"] == "saved"), default=0)


@pytest.mark.parametrize(
    "engine", [{"engine__kind": "ddp"}, {"engine__kind": "deepspeed", "engine__zero": 2}], ids=["ddp", "zero2"]
)
@pytest.mark.timeout(600)
def test_two_ranks_learn_what_one_learns(
    data: Path, models: dict[str, Path], whole: Path, tmp_path: Path, engine: dict[str, Any]
) -> None:
    recipe = inversion(data, models["sd"], invert__vectors=2, **engine)
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    port = free_port()
    program = ["-m", "train.program", str(tmp_path / "recipe.yaml"), str(tmp_path / "run")]
    ranks = [warm.start(program, environment=rank_environment(rank, 2, port)) for rank in range(2)]
    assert [rank.wait(timeout=300) for rank in ranks] == [0, 0]
    one, other = rows_of(tmp_path / "run"), rows_of(whole)
    assert max(float((one[name] - other[name]).abs().max()) for name in other) < RANKS_TOLERANCE
    results = [read_results(run / "results.jsonl").results for run in (tmp_path / "run", whole)]
    assert [line.n for line in results[0]] == [line.n for line in results[1]]


def test_micro_batches_and_kept_latents_change_nothing_but_rounding(
    data: Path, models: dict[str, Path], whole: Path, tmp_path: Path
) -> None:
    for name, changes in (("parts", {"engine__accumulate": 2}), ("anew", {"invert__cache_mb": 0})):
        recipe = inversion(data, models["sd"], invert__vectors=2, **changes)
        assert train_alone(recipe, tmp_path / name).exit_code == 0
        one, other = rows_of(tmp_path / name), rows_of(whole)
        assert max(float((one[key] - other[key]).abs().max()) for key in other) < RANKS_TOLERANCE


def test_kept_latents_are_those_of_the_pixels_and_not_of_the_picture_that_was_met_first(
    models: dict[str, Path],
) -> None:
    """Of 499 x 500 px a square is 499 x 499: the first or the last row is cut off, which changes by the step."""
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    spec = pinned_generator(InvertSpec(model=str(models["sd"]), initial="ink", steps=2))
    generator = Generator(open_generator(spec), spec, ["<style>"], 32, torch.device("cpu"))
    alone = [generator.latents(images[[place]], [5], False) for place in (0, 1)]
    kept = [generator.latents(images[[place]], [5], True) for place in (0, 1, 0, 1)]
    assert not torch.equal(*alone)
    assert all(torch.equal(one, alone[place % 2]) for place, one in enumerate(kept))


def test_pictures_and_a_page_of_before_and_after_are_written(
    data: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    recipe = inversion(data, models["sdxl"], invert__pictures=2, invert__dtype="bf16", engine__dtype="bf16")
    assert train_alone(recipe, tmp_path / "run").exit_code == 0
    assert {path.name for path in (tmp_path / "run" / "pictures").iterdir()} == {
        "learned-00000001.jpg",
        "learned-00000002.jpg",
    }
    page = (tmp_path / "run" / "inversion.html").read_text()
    for words in ("Plain prompt", "Untrained word", "Learned word", "Real pictures", "&lt;style&gt;"):
        assert words in page
    assert page.count("data:image/jpeg;base64,") == 8


def test_sdxl_in_fp16_whose_vae_is_raised_to_fp32_draws_as_in_fp32(models: dict[str, Path]) -> None:
    drawn = {}
    for dtype in ("fp32", "fp16"):
        spec = pinned_generator(InvertSpec(model=str(models["sdxl"]), dtype=dtype, initial="ink", steps=2))
        generator = Generator(open_generator(spec), spec, ["<style>"], 32, torch.device("cpu"))
        if dtype == "fp16":
            assert generator.pipeline.vae.dtype == torch.float32
        with generator.using(Inversion(generator).initial()):
            drawn[dtype] = generator.draw(["a <style>", "one in the style of <style>"], [1, 2]).astype(int)
    assert drawn["fp16"].shape == (2, 32, 32, 3)
    assert abs(drawn["fp16"] - drawn["fp32"]).mean() < 2  # of 255


@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_are_those_of_the_familys_own_pipeline(family: str, models: dict[str, Path]) -> None:
    spec = pinned_generator(InvertSpec(model=str(models[family]), initial="ink", guidance=1, steps=2))
    generator = Generator(open_generator(spec), spec, ["<style>"], 32, torch.device("cpu"))
    pipeline, texts, seeds = generator.pipeline, ["a crane", "a kite"], [1, 2]
    told = {name: rows.clone() for name, rows in generator.encode(texts).items()}
    own = pipeline(
        **told,
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
        height=32,
        width=32,
        num_inference_steps=2,
        guidance_scale=1.0,
        output_type="np",
    ).images
    assert abs(generator.draw(texts, seeds) - (own * 255).round()).max() <= 1


def test_a_page_that_cannot_be_written_costs_no_token(
    data: Path, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("train.task.invert.write_page", no_room)
    with pytest.raises(OSError, match="no space left"):
        train_alone(inversion(data, models["sd"], invert__pictures=1, schedule__steps=1), tmp_path / "run")
    assert open_style_token(str(tmp_path / "run")).told.vectors == 1


def test_the_page_does_not_depend_on_where_a_training_was_stopped(
    data: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    recipe = inversion(data, models["sd"], invert__pictures=2, invert__steps=1, checkpoint__every_min=1e-9)
    assert train_alone(recipe, tmp_path / "whole").exit_code == 0
    assert train_alone(recipe, tmp_path / "stopped", 2).exit_code == 75
    assert train_alone(recipe, tmp_path / "stopped").exit_code == 0
    one, other = ((tmp_path / name / "inversion.html").read_text() for name in ("whole", "stopped"))
    assert "Real pictures" in one
    assert one == other


def of_classes(*classes: int) -> Change:
    """Samples that have these classes in turns."""

    def changed(shard: int, index: int, row: dict[str, object]) -> dict[str, object]:
        class_id = classes[index % len(classes)]
        uid = hashlib.sha256(f"{classes}/{shard}/{index}".encode()).hexdigest()[:32]
        return {**row, "uid": uid, "class_id": class_id, "class_name": CLASS_NAMES[class_id]}

    return changed


def test_pictures_are_measured_evenly_over_the_classes_and_others_are_not_called_unknown(
    data: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    """Each second picture of these ten is of one class."""
    write_data_set(tmp_path / "turns", num_shards=1, num_rejected=0, change=of_classes(1, 3))
    held_out = {"source": str(tmp_path / "turns")}
    changes = {"invert__tokens": "class", "invert__validation_pictures": 5, "evaluate__validation": held_out}
    recipe = inversion(data, models["sd"], schedule__steps=1, **changes)
    assert train_alone(recipe, tmp_path / "run").exit_code == 0
    (line,) = [line for line in read_results(tmp_path / "run" / "results.jsonl").results if line.selected]
    assert sorted(num for _, num in line.per_class.values()) == [2, 3]
    assert line.left_out == 0


def test_pictures_of_classes_without_a_word_are_left_out_and_told(models: dict[str, Path], tmp_path: Path) -> None:
    write_data_set(tmp_path / "real", num_rejected=0, change=of_classes(0, 4))
    write_data_set(tmp_path / "mixed", num_shards=1, num_rejected=0, change=of_classes(1, 0, 3, 4, 2))
    write_data_set(tmp_path / "others", num_shards=1, num_rejected=0, change=of_classes(1, 3))
    recipe = inversion(tmp_path, models["sd"], schedule__steps=1, evaluate__validation__source=str(tmp_path / "mixed"))
    assert train_alone(recipe, tmp_path / "run").exit_code == 0
    (line,) = [line for line in read_results(tmp_path / "run" / "results.jsonl").results if line.selected]
    assert {class_id: num for class_id, (_, num) in line.per_class.items()} == {0: 2, 4: 2}
    assert line.left_out == 6
    recipe = inversion(tmp_path, models["sd"], evaluate__validation__source=str(tmp_path / "others"))
    with pytest.raises(ValueError, match="found no picture of a class that has a word") as error:
        train_alone(recipe, tmp_path / "none")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "none").exists()


def test_a_finished_inversion_is_known_without_torch_and_refuses_another_recipe(
    data: Path, models: dict[str, Path], whole: Path, tmp_path: Path
) -> None:
    facts = FACTS["invert"]
    recipe = inversion(data, models["sd"], invert__vectors=2)
    assert look(recipe, whole, facts.last_file, facts.metric) is not None
    free = inversion(data, models["sd"], invert__vectors=2, invert__pictures=3, invert__cache_mb=0)
    assert look(free, whole, facts.last_file, facts.metric) is not None, "what only shows and keeps is no difference"
    with pytest.raises(ValueError, match=r'invert\.initial: "ink" before, "pen" now') as error:
        look(inversion(data, models["sd"], invert__vectors=2, invert__initial="pen"), whole, facts.last_file, "")
    assert "\n" not in str(error.value)
    moved = pipeline_of("sd", tmp_path / "moved")
    assert recipe_digest(inversion(data, moved, invert__vectors=2)) == recipe_digest(recipe)


def test_the_verb_names_the_token_of_this_recipe_and_none_where_it_refuses_another(
    data: Path, models: dict[str, Path], whole: Path, tmp_path: Path
) -> None:
    (tmp_path / "recipe.yaml").write_text(dump_recipe(inversion(data, models["sd"], invert__vectors=2)))
    asked = ["invert", str(tmp_path / "recipe.yaml"), "--out", str(whole)]
    said = CliRunner().invoke(sixfold.command_line(), asked)
    assert said.exit_code == 0, said.output
    assert f"token: {whole}" in said.output
    refused = CliRunner().invoke(sixfold.command_line(), [*asked, "invert.initial=pen"])
    assert "found a training with another recipe" in str(refused.exception)
    assert "token:" not in refused.output
    assert f"token: {whole}" not in CliRunner().invoke(sixfold.command_line(), [*asked, "--dry-run"]).output


@pytest.mark.parametrize(
    ("family", "changes", "line"),
    [
        ("sd", {"invert__templates": ["a photo of {name}"]}, r"templates: found .*, expected the slots \{token\}"),
        ("sd", {"invert__groups": {"a": ["zero"]}}, "groups: found some with tokens: dataset"),
        ("sd", {"invert__token": "style"}, "token"),
        ("sd", {"data__mix": {"mixup_alpha": 0.2}}, "data: found mixed pictures with task invert"),
        ("sd", {"invert": None}, "invert: found none with task invert, expected one"),
        ("sd", {"model": {"name": "sandbox_resnet", "num_classes": 5}}, "model: found one with task invert"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(
    data: Path, models: dict[str, Path], family: str, changes: dict[str, Any], line: str
) -> None:
    with pytest.raises(ValueError, match=line):
        inversion(data, models[family], **changes)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"invert__token": "<|x|>"}, "token"),
        ({"invert__templates": [f"a {{name}} {'very ' * 20}small picture, {{token}}"]}, r"found \d+ tokens in"),
        ({"invert__meanings": "nowhere.jsonl"}, r"invert\.meanings: found no file"),
        ({"invert__tokens": "group", "invert__groups": {"a": ["zero"]}}, "found no group with the class"),
        (
            {"evaluate__validation__views": 4},
            r"evaluate\.validation\.views: found 4 with task invert, which measures a part of a set, expected 1",
        ),
        ({"data__size_px": 36}, r"data\.size_px: found 36, family sd expects a multiple of 8"),
    ],
)
def test_what_cannot_be_learned_is_refused_in_one_line_and_leaves_nothing(
    data: Path, models: dict[str, Path], tmp_path: Path, changes: dict[str, Any], line: str
) -> None:
    with pytest.raises(ValueError, match=line) as error:
        train_alone(inversion(data, models["sd"], **changes), tmp_path / "run")
    if not isinstance(error.value, RecipeError) and "validation error" not in str(error.value):
        assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_generator_that_is_written_down_may_move_and_is_refused_with_another_weight(
    data: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    moved = pipeline_of("sd", tmp_path / "moved")
    digest = model_digest(str(models["sd"]), None, home())
    recipe = inversion(data, moved, invert__model_sha256=digest, schedule__steps=1)
    assert train_alone(recipe, tmp_path / "run").exit_code == 0
    file = next((moved / "unet").glob("*.safetensors"))
    held = bytearray(file.read_bytes())
    held[-1] ^= 1
    file.write_bytes(held)
    with pytest.raises(ModelError, match=rf"expected {digest} \(invert\.model_sha256\); bring") as error:
        train_alone(recipe, tmp_path / "other")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "other").exists()


def test_data_without_names_of_classes_are_refused(models: dict[str, Path], tmp_path: Path) -> None:
    write_foreign(tmp_path / "real", [0, 1, 0, 1])
    recipe = inversion(tmp_path, models["sd"], evaluate__validation=None)
    with pytest.raises(ValueError, match="found no class names, expected names, for prompts say them"):
        train_alone(recipe, tmp_path / "run")


def test_a_distilled_model_and_a_word_that_it_knows_are_refused(data: Path, tmp_path: Path) -> None:
    folder = pipeline_of("sd", tmp_path / "sd")
    config = folder / "unet" / "config.json"
    text = config.read_text()
    config.write_text(text.replace('"time_cond_proj_dim": null', '"time_cond_proj_dim": 16'))
    with pytest.raises(ValueError, match="found a model of few steps"):
        train_alone(inversion(data, folder), tmp_path / "run")
    config.write_text(text)
    (folder / "tokenizer" / "added_tokens.json").write_text('{"<style>": 514}')
    with pytest.raises(ValueError, match="found the word <style>, which tokenizer of the model knows already"):
        train_alone(inversion(data, folder), tmp_path / "run")


def test_the_shipped_recipe_is_one_and_other_recipes_keep_their_digests() -> None:
    assert load_recipe(home() / "recipes" / "invert" / "sandbox.yaml", TrainRecipe).task == "invert"
    shipped = load_recipe(home() / "recipes" / "sandbox-train.yaml", TrainRecipe)
    assert "invert" in shipped.model_dump()
    older = TrainRecipe.model_validate({key: value for key, value in shipped.model_dump().items() if key != "invert"})
    assert recipe_digest(shipped) == recipe_digest(older)

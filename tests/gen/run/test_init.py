"""`sixfold init`: from a folder or a list to a recipe that runs, with the model's own size, batch and steps."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

import sixfold
from cluster.recipes.load import load_recipe, parse_recipe
from gen.prompts.prompts import PromptSpec, Sources, draw_prompts, draw_table
from gen.prompts.too_long import length_of
from gen.run.init import Chosen, ChosenKind, choose_model, first_recipe, name_of
from gen.run.recipe import Recipe, usable_classes
from gen.wording.lexicon import load_lexicon
from shards.disk.home import home
from shards.labels.classes import Class, load_classes
from tests.support.tiny_pipelines import tiny_pipeline
from train.recipe import TrainRecipe, check_ranks

SANDBOX = home() / "sandbox" / "models" / "generator"


def photos(folder: Path, **counts: int) -> Path:
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (40, 30), (number * 9, 100, 50)).save(folder / name / f"{number}.jpg")
    return folder


def init(*arguments: str) -> str:
    said = CliRunner().invoke(sixfold.command_line(), ["init", *arguments], catch_exceptions=False)
    assert said.exit_code == 0, said.output
    return said.output


def refused(*arguments: str) -> str:
    with pytest.raises(ValueError) as caught:
        init(*arguments)
    return str(caught.value)


def test_an_image_folder_becomes_a_recipe_that_plans_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos(tmp_path / "project" / "my Cränes", crane=3, seal=5)
    monkeypatch.chdir(tmp_path / "project")
    said = init("my Cränes", "--model", "sandbox/models/generator")
    assert "my-cranes.yaml: 2 classes, 8 images in 1x" in said
    assert "next: sixfold generate my-cranes.yaml --scale 1x --dry-run" in said
    monkeypatch.chdir(tmp_path)
    training = load_recipe(Path("project/my-cranes-train.yaml"), TrainRecipe)
    assert [domain.source for domain in training.data.domains] == ["project/my Cränes", "out/my-cranes"]
    assert (training.model.num_classes, training.quotas, training.data.size_px) == (2, (8, 8), 64)
    recipe = load_recipe(Path("project/my-cranes.yaml"), Recipe)
    assert recipe.classes.source == "project/my Cränes"
    assert (recipe.name, recipe.classes.per_class, recipe.prompts.per_class) == ("my-cranes", None, None)
    assert (recipe.sampler.model, recipe.sampler.size_px, recipe.sampler.steps) == ("sandbox/models/generator", 64, 12)


@pytest.mark.parametrize("name", ["2024", "on", "my,photos", "a: b, #c"])
def test_a_folder_of_any_name_becomes_recipes_that_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    photos(tmp_path / name, crane=2, seal=2)
    monkeypatch.chdir(tmp_path)
    init(name, "--model", "sandbox/models/generator")
    (training,) = tmp_path.glob("*-train.yaml")
    recipe = load_recipe(Path(training.name.replace("-train", "")), Recipe)
    assert (tmp_path / recipe.classes.source).samefile(name)
    real, synthetic = load_recipe(Path(training.name), TrainRecipe).data.domains
    assert (tmp_path / real.source).samefile(name)
    assert synthetic.source.endswith(f"out/{recipe.name}")


def test_what_a_cluster_needs_stands_as_a_comment_that_can_be_uncommented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos(tmp_path / "birds", crane=2, seal=2)
    monkeypatch.chdir(tmp_path)
    init("birds", "--model", "sandbox/models/generator")
    text = Path("birds-train.yaml").read_text()
    Path("eight.yaml").write_text(text.replace("# groups: 8", "groups: 8").replace("# engine:", "engine:"))
    for ranks in (2, 8):
        check_ranks(load_recipe(Path("eight.yaml"), TrainRecipe), ranks)


def test_a_recipe_that_would_be_refused_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos(tmp_path / "birds", crane=2, seal=2)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gen.run.init.first_training", lambda *_: "name: [")
    refused("birds", "--model", "sandbox/models/generator")
    assert [path.name for path in tmp_path.iterdir()] == ["birds"]


def test_a_list_without_counts_gets_a_number_that_a_person_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("birds.txt").write_text("crane\nauk\n")
    init("birds.txt", "--out", "deep/er/mine.yaml")
    text = Path("deep/er/mine.yaml").read_text()
    recipe = load_recipe(Path("deep/er/mine.yaml"), Recipe)
    assert (recipe.classes.per_class, recipe.classes.source) == (100, str(tmp_path / "birds.txt"))
    assert recipe.sampler.revision, "without a model it is one of the hub, pinned"
    assert "hf download" in text
    assert '# meanings: {choose: given, given: {"crane": "crane, the ..."}}' in text
    assert (recipe.prompts.kind, recipe.prompts.per_class) == ("cd+sd", 600)
    init("birds.txt", "--per-class", "7", "--out", "seven.yaml")
    assert load_recipe(Path("seven.yaml"), Recipe).prompts.per_class == 42


def test_a_model_that_reads_few_tokens_gets_prompts_that_it_reads_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("birds.txt").write_text("crane\nauk\n")
    said = init("birds.txt", "--model", str(SANDBOX))
    assert "prompts: kind template, for 40 of 40 texts of kind cd+sd are longer than the 32 tokens that the" in said
    recipe = load_recipe(Path("birds.yaml"), Recipe)
    assert (recipe.prompts.kind, recipe.prompts.per_class) == ("template", None)
    planned = CliRunner().invoke(sixfold.command_line(), ["generate", "birds.yaml", "--dry-run"])
    assert (planned.exit_code, "\nlength" in planned.stdout) == (0, False)
    richer = ["prompts.kind=cd+sd", "prompts.per_class=50"]
    planned = CliRunner().invoke(sixfold.command_line(), ["generate", "birds.yaml", "--dry-run", *richer])
    assert planned.stdout.count("\nlength   40 of 40 prompts looked at are longer than the 32 tokens that") == 1
    assert "set prompts.kind=template or a shorter prompts.lexicon" in planned.stdout
    Path("long.txt").write_text(f"{'crane ' * 30}\nauk\n")
    said = init("long.txt", "--model", str(SANDBOX))
    assert load_recipe(Path("long.yaml"), Recipe).prompts.kind == "name"
    assert "; of these too 1 of 2 are longer" in said, "no text with the name is short enough"


def test_of_a_table_prompts_are_looked_at_and_those_of_a_language_model_are_not_known(tmp_path: Path) -> None:
    classes = [Class(0, "crane", None, 1), Class(1, "auk", None, 1)]
    sources = Sources(load_lexicon("general"))
    draw_table(classes, {}, PromptSpec(kind="cd", per_class=30), 0, sources, tmp_path / "p.parquet")
    table = load_recipe(home() / "recipes" / "sandbox.yaml", Recipe, [f"prompts.file={tmp_path / 'p.parquet'}"])
    found = length_of(table, classes, SANDBOX)
    assert found is not None
    assert (found.num_seen, found.limit) == (40, 32)
    assert found.num_cut > 20
    asked = load_recipe(home() / "recipes" / "sandbox.yaml", Recipe, ["llm.provider=openai", "llm.model=x"])
    assert length_of(asked, classes, SANDBOX) is None
    sandbox = load_recipe(home() / "recipes" / "sandbox.yaml", Recipe)
    shown = length_of(sandbox, load_classes(sandbox.classes), SANDBOX)
    assert shown is not None
    assert (shown.num_seen, shown.line) == (200, None)


def test_meanings_of_the_list_and_wordnet_ids_are_a_choice_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("said.csv").write_text('name,meaning\ncrane,"crane, the bird"\n')
    for source, choice in (("said.csv", "none"), ("imagenet-1k", "clip")):
        init(source)
        recipe = load_recipe(Path(f"{name_of(source)}.yaml"), Recipe)
        assert recipe.meanings.choose == choice
        assert "# meanings:" not in Path(f"{name_of(source)}.yaml").read_text()


@pytest.mark.parametrize(
    ("family", "size_px", "steps", "batch"), [("sdxl", 64, 12, 64), ("sd3", 64, 12, 64), ("flux", 1024, 28, 8)]
)
def test_size_and_steps_are_those_of_the_models_configs(
    family: str, size_px: int, steps: int, batch: int, tmp_path: Path
) -> None:
    chosen = choose_model(str(tiny_pipeline(family, tmp_path / family)))
    assert (chosen.size_px, chosen.steps, chosen.batch) == (size_px, steps, batch)


@pytest.mark.parametrize(("size_px", "vae_batch"), [(512, 8), (1024, 4)])
def test_a_model_of_large_pictures_decodes_few_at_once(size_px: int, vae_batch: int) -> None:
    chosen = Chosen("models/my", None, "openrail++", size_px, 30, 5.0, "as told")
    classes = [Class(0, "crane", None, 40)]
    text = first_recipe("a", "a.csv", classes, None, chosen, "models/my", "schema.json", ChosenKind("template"))
    assert parse_recipe(text.encode(), Recipe, "a.yaml").sampler.vae_batch == vae_batch


@pytest.mark.parametrize(
    ("num_images", "num_shards"), [(4, 1), (41, 4), (800, 8), (1_300, 8), (1_307, 8), (8_001, 9), (1_281_167, 1_282)]
)
def test_a_fold_has_no_shard_of_crumbs(num_images: int, num_shards: int) -> None:
    chosen, kind = Chosen("models/my", None, "mit", 512, 30, 5.0, "as told"), ChosenKind("template")
    text = first_recipe("a", "a.csv", [Class(0, "crane", None, num_images)], None, chosen, "m", "schema.json", kind)
    size = parse_recipe(text.encode(), Recipe, "a.yaml").shards.samples_per_shard
    assert 10 <= size <= 1000
    assert -(-num_images // size) == num_shards
    assert num_images - (num_shards - 1) * size >= min(4, num_images) * (1 if num_images < 100 else 20)


def test_a_recipe_asks_for_no_more_prompts_than_the_kind_of_its_classes_has() -> None:
    chosen, kind = Chosen("models/my", None, "mit", 512, 30, 5.0, "as told"), ChosenKind("cd+sd")
    classes = [Class(0, "crane", None, 2_000), Class(1, "banded", None, 2_000, kind="texture")]
    text = first_recipe("a", "a.csv", classes, None, chosen, "m", "schema.json", kind)
    spec = parse_recipe(text.encode(), Recipe, "a.yaml").prompts
    assert 9_000 < (spec.per_class or 0) < 10_000
    sources = Sources(load_lexicon(spec.lexicon))
    assert [len(draw_prompts(one, None, spec, 0, sources).prompts) for one in classes] == [spec.per_class] * 2


def test_a_distilled_model_takes_few_steps_and_the_card_names_the_licence(tmp_path: Path) -> None:
    folder = shutil.copytree(SANDBOX, tmp_path / "model")
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "time_cond_proj_dim": 256}))
    (folder / "README.md").write_text("---\nlicense: openrail++\n---\n")
    chosen = choose_model(str(folder))
    assert (chosen.steps, chosen.licence, chosen.batch) == (4, "openrail++", 64)


def test_all_that_a_recipe_names_and_that_is_not_there_comes_in_one_answer(tmp_path: Path) -> None:
    recipe = load_recipe(
        home() / "recipes" / "sandbox.yaml",
        Recipe,
        [
            *("classes.source=birds.csv", "sampler.model=no-model", "prompts.lexicon=words.yaml"),
            *("meanings.real=photos", "meanings.clip.model=no-clip"),
        ],
    )
    with pytest.raises(ValueError) as caught:
        usable_classes(recipe, has_prompts=False)
    lines = str(caught.value).splitlines()
    for line, words in zip(lines, ("birds.csv", "no-model", "words.yaml", "photos", "no-clip"), strict=True):
        assert words in line
    with pytest.raises(ValueError) as begun:
        usable_classes(recipe, has_prompts=True)
    assert len(str(begun.value).splitlines()) == 2, "prompts that were drawn need no real images"
    assert usable_classes(load_recipe(home() / "recipes" / "sandbox.yaml", Recipe), False)[1].name == "one"


def test_a_shipped_list_stays_a_name_beside_a_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "sandbox", crane=1)
    init("sandbox", "--model", str(SANDBOX), "--out", "deep/a.yaml")
    assert load_recipe(Path("deep/a.yaml"), Recipe).classes.source == "sandbox"
    assert not Path("deep/a-train.yaml").exists(), "a list has no pictures to train on"


def test_what_is_there_is_never_written_over_and_mistakes_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sandbox.yaml").write_text("mine")
    assert "sandbox.yaml: is there already; give another name with --out" in refused("sandbox")
    assert Path("sandbox.yaml").read_text() == "mine"
    assert "expected a shipped list, a file or a folder" in refused("nowhere")
    assert "found no such folder, expected a diffusers pipeline" in refused(
        "sandbox", "--model", "no", "--out", "b.yaml"
    )
    hub = ["--model", "someone/sd", "--out", "b.yaml"]
    assert "of a model of the hub give its commit too, with --revision" in refused("sandbox", *hub)
    assert "is not in the hub cache of this machine" in refused("sandbox", *hub, "--revision", "0" * 40)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sandbox.yaml"]

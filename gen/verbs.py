"""The verbs before and at the making of images: generate, edit, meanings, prompts, plan, init."""

import os
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.console import RecipeFile, check_file, overrides_of, path_option, say, warn
from cluster.recipes.beside import default_place
from cluster.recipes.load import load_recipe, parse_recipe
from cluster.recipes.mistake import RecipeError
from cluster.waiting import waiting
from shards.disk.home import home

if TYPE_CHECKING:
    from gen.edit.recipe import EditRecipe
    from gen.run.recipe import Recipe


def _recipe_model() -> "type[Recipe]":
    from gen.run.recipe import Recipe

    return Recipe


def _edit_model() -> "type[EditRecipe]":
    from gen.edit.recipe import EditRecipe

    return EditRecipe


Overrides = Annotated[list[str] | None, overrides_of(_recipe_model)]
Scale = Annotated[str, typer.Option(help="Multiple of the real set: 0.5x, 1x, 6x.")]
PER_CLASS = 100  # of a first recipe, where the source does not say how many there are
Out = Annotated[
    str | None,
    typer.Option(
        help="Where the shards go: a folder or a URL.",
        show_default="out/<name of the recipe>, beside the recipe if it is there, else here",
    ),
]
InProcess = Annotated[bool, typer.Option("--in-process", help="One worker in this process, without Ray.")]
Gallery = Annotated[bool, typer.Option(help="Write the gallery page when images were made in a folder.")]
SingleWriter = Annotated[
    bool,
    typer.Option("--single-writer", help="For stores without exclusive create: you promise that one run writes to it."),
]


def generate(
    recipe: RecipeFile,
    overrides: Overrides = None,
    scale: Scale = "6x",
    out: Out = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print plan, space and cost, and what a run would refuse; touch nothing.")
    ] = False,
    in_process: InProcess = False,
    gallery: Gallery = True,
    single_writer: SingleWriter = False,
) -> None:
    """Make the images, on every GPU (or core) there is. Run it again to continue or to raise the scale.

    Example: `sixfold generate recipes/sandbox.yaml --scale 6x --out out/sandbox-20 sampler.steps=20`
    """
    with waiting("loading the program"):
        from cluster.process.slurm import idle_parts
        from cluster.process.stop_flag import StopFlag
        from gen.make.plan import parse_scale
        from gen.run.output import has_prompts
        from gen.run.recipe import Recipe, missing_of
        from gen.run.run import run
        from shards.disk.address import one_spelling

    changed = [*(overrides or []), *(["cluster.in_process=true"] if in_process else [])]
    chosen = load_recipe(recipe, Recipe, changed, missing_of, warn)
    asked = parse_scale(scale)
    place, note = (out, None) if out is not None else default_place(recipe, f"out/{chosen.name}")
    if note is not None:
        warn(note)
    if dry_run:
        lines = _say_plan(chosen, asked, has_prompts(place))
        if (told := None if lines else _cut_prompts(chosen)) is not None:
            say(f"{'length':<9}{told}")
        say(f"{'output':<9}{one_spelling(place)}")
        if lines:
            raise RecipeError.of(lines)
        return
    for line in idle_parts(os.environ, chosen.cluster.gpus_used):
        warn(line)
    say(f"output: {one_spelling(place)}")
    with StopFlag() as stop:
        outcome = run(chosen, asked, place, home(), stop, single_writer, warn)
        if gallery and outcome.made_units:
            from shards.gallery_page import gallery_of_run

            gallery_of_run(place, stop)
    say(outcome.sentence())
    raise typer.Exit(outcome.exit_code)


def edit(
    recipe: RecipeFile,
    overrides: Annotated[list[str] | None, overrides_of(_edit_model)] = None,
    scale: Annotated[str, typer.Option(help="Edits of each source picture: 1x, 5x.")] = "1x",
    out: Out = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print plan and cost, and what a run would refuse; touch nothing.")
    ] = False,
    in_process: InProcess = False,
    gallery: Gallery = True,
    single_writer: SingleWriter = False,
) -> None:
    """Edit real pictures through a generator, each as often as the scale says. Run it again to continue.

    Example: `sixfold edit recipes/edit/sandbox-perturb.yaml --scale 1x edit.gamma=0.5`
    """
    with waiting("loading the program"):
        from cluster.process.slurm import idle_parts
        from cluster.process.stop_flag import StopFlag
        from gen.edit.recipe import EditRecipe
        from gen.edit.run import describe, find_work, run
        from gen.make.plan import parse_scale
        from gen.run.output import has_prompts
        from shards.disk.address import one_spelling

    changed = [*(overrides or []), *(["cluster.in_process=true"] if in_process else [])]
    chosen = load_recipe(recipe, EditRecipe, changed, say=warn)
    asked = parse_scale(scale)
    place, note = (out, None) if out is not None else default_place(recipe, f"out/{chosen.name}")
    if note is not None:
        warn(note)
    if dry_run:
        with waiting("looking at the recipe and its source pictures"):
            work = find_work(chosen, has_prompts(place))
        say(describe(chosen, work, asked))
        say(f"{'output':<9}{one_spelling(place)}")
        return
    for line in idle_parts(os.environ, chosen.cluster.gpus_used):
        warn(line)
    say(f"output: {one_spelling(place)}")
    with StopFlag() as stop:
        outcome = run(chosen, asked, place, home(), stop, single_writer, warn)
        if gallery and outcome.made_units:
            from shards.gallery_page import gallery_of_run

            gallery_of_run(place, stop)
    say(outcome.sentence())
    raise typer.Exit(outcome.exit_code)


def _say_plan(chosen: "Recipe", asked: Fraction, has_prompts: bool) -> list[str]:
    """Print what a scale means. The lines with which a run would refuse the recipe; raises RecipeError if nothing can
    be planned for them."""
    from gen.make.scale import scale_name
    from gen.run.describe import describe
    from gen.run.recipe import look_up

    with waiting(f"planning {scale_name(asked)}"):
        classes, lines = look_up(chosen, has_prompts)
        try:
            described = describe(chosen, classes, asked) if classes else ""
        except ValueError:
            if not lines:
                raise
            described = ""
    if not described:
        raise RecipeError.of(lines)
    say(described)
    return lines


def _cut_prompts(chosen: "Recipe") -> str | None:
    """A line if the model does not read prompts to their ends."""
    with waiting("measuring how long prompts are"):
        from gen.prompts.too_long import length_of
        from gen.sampler.spec import check_sampler
        from shards.labels.classes import load_classes

        length = length_of(chosen, load_classes(chosen.classes.uncounted()), check_sampler(chosen.sampler).path)
    return None if length is None else length.line


def meanings(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: Annotated[Path | None, path_option("Also write the choice, one line of JSON a class.", "none")] = None,
    show: Annotated[int, typer.Option(min=0, help="How many classes to print, the least certain first.")] = 50,
) -> None:
    """Choose which sense of each class name is meant and print the choice, the least certain first.

    What is wrong is corrected by hand, in a YAML file of lines `name or id: phrase` (`meanings.overrides=FILE`).

    Example: `sixfold meanings recipes/sandbox.yaml --out out/meanings.jsonl`
    """
    with waiting("loading the program"):
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        from cluster.process.stop_flag import StopFlag
        from gen.prompts.meanings import TABLE_COLUMNS, meaning_table, write_meanings
        from gen.prompts.write import meanings_only
        from gen.run.recipe import Recipe, check_given, missing_of
        from shards.disk.safe_text import visible
        from shards.labels.classes import load_classes

    chosen = load_recipe(recipe, Recipe, overrides or (), missing_of, warn)
    if out is not None:
        check_file(out)
    classes = load_classes(chosen.classes.uncounted())
    check_given(chosen, classes)
    with StopFlag() as stop:
        found = meanings_only(chosen, classes, warn, stop)
    table = Table(*TABLE_COLUMNS)
    for row in meaning_table(found)[:show]:
        table.add_row(*(Text(visible(cell)) for cell in row))
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    if out is not None:
        write_meanings(found, out)
    sources = Counter(meaning.source for meaning in found)
    parts = ", ".join(f"{count:,} {source.replace('_', ' ')}" for source, count in sorted(sources.items()))
    say(f"{len(found):,} {'class' if len(found) == 1 else 'classes'}: {parts}" + (f"; in {out}" if out else ""))


def prompts(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: Annotated[Path, path_option("The folder to write.")] = Path("out/prompts"),
    show: Annotated[int, typer.Option(min=0, help="How many classes to print a prompt of.")] = 10,
    report: Annotated[bool, typer.Option(help="Measure how much the prompts differ, and write diversity.html.")] = True,
) -> None:
    """Choose meanings, draw all prompts and tell how much they differ, before any GPU hour is spent.

    Also tells how many prompts put a class into a place of another kind: a shark in a wood, a ship on a road.

    Writes meanings.jsonl, prompts.parquet and diversity.html. A run takes the table with `prompts.file=…`. Which sense
    of a name is meant is chosen by `meanings.choose=clip` (candidates from `llm`, a lexicon or WordNet; `meanings.real`
    and `meanings.clip` compare them with real images); `prompts.kind` is name, template, caption, cd, sd or cd+sd.

    Example: `sixfold prompts recipes/sandbox.yaml --out out/prompts --show 20`
    """
    with waiting("loading the program"):
        from cluster.process.stop_flag import StopFlag
        from gen.prompts.diversity import report_lines
        from gen.prompts.diversity_page import write_page
        from gen.prompts.strangers import find_strangers, place_lines
        from gen.prompts.table import PromptTable
        from gen.prompts.write import PROMPTS, measure_prompts, write_prompts
        from gen.run.recipe import Recipe, check_given, missing_of
        from shards.disk.data_set import refuse_foreign_folder
        from shards.labels.classes import load_classes

    chosen = load_recipe(recipe, Recipe, overrides or (), missing_of, warn)
    refuse_foreign_folder(out)
    classes = load_classes(chosen.classes.uncounted())
    if chosen.prompts.file is None:
        check_given(chosen, classes)
    out.mkdir(parents=True, exist_ok=True)
    with StopFlag() as stop:
        made = write_prompts(chosen, classes, out, warn, stop)
    for sentence in made.sentences():
        say(sentence)
    table = PromptTable.load(out / PROMPTS)
    for one in classes[:show]:
        say(f"{one.id:>4} {one.name}: {table.prompt(one.id, 0).text}")
    for line in place_lines(find_strangers(table, classes, made.kinds)):
        say(line)
    if report:
        with waiting("measuring how much the prompts differ"):
            measured = measure_prompts(table, chosen.seed, chosen.meanings.clip, chosen.sampler, warn)
            write_page(measured, out / "diversity.html")
        for line in report_lines(measured):
            say(line)
        say(f"page: {out / 'diversity.html'}")
    say(f"{len(table):,} prompts for {len(classes):,} classes in {out / PROMPTS}")


def plan(
    recipe: RecipeFile,
    overrides: Overrides = None,
    scale: Scale = "6x",
    out: Annotated[Path | None, path_option("Write one row per sample to this parquet file.", "none")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Walk the whole plan and print it; write nothing.")
    ] = False,
) -> None:
    """Print what a scale means: folds, shards, images, bytes, hours; optionally write every sample to a file.

    A recipe that a run would refuse is refused after that.

    Example: `sixfold plan recipes/imagenet-sd15-6x.yaml --scale 6x --dry-run`
    """
    with waiting("loading the program"):
        from gen.make.plan import parse_scale
        from gen.run.describe import walk_plan
        from gen.run.recipe import Recipe, missing_of
        from shards.labels.classes import load_classes

    chosen = load_recipe(recipe, Recipe, overrides or (), missing_of, warn)
    asked = parse_scale(scale)
    if out is not None and not dry_run:
        check_file(out)
    lines = _say_plan(chosen, asked, has_prompts=False)
    if dry_run or out:
        with waiting("walking through all samples"):
            walked = walk_plan(chosen, load_classes(chosen.classes), asked, None if dry_run else out)
        say(walked)
    if lines:
        raise RecipeError.of(lines)


def _refuse_there(*paths: Path) -> None:
    """Raises ValueError for a file that is there and would be written over."""
    for path in paths:
        if path.exists():
            raise ValueError(f"{path}: is there already; give another name with --out, or remove it")


def init(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="A class list (CSV, JSON, text), an image folder, shards, or a saved `Dataset`."
        ),
    ],
    real: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="With a class list: your real images, in class folders, tars or a saved `Dataset`.",
            show_default="none, or SOURCE",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Folder of a text-to-image model.", show_default="Stable Diffusion 1.5"),
    ] = None,
    out: Annotated[Path | None, path_option("The recipe to write.", "<name>.yaml")] = None,
    revision: Annotated[
        str | None, typer.Option(help="With a model of the hub: its commit, 40 hex digits.", show_default="none")
    ] = None,
    per_class: Annotated[
        int | None,
        typer.Option(min=1, help="Real images of each class.", show_default="as the source has, else 100"),
    ] = None,
) -> None:
    """Write recipes for your own classes, with a comment for each choice; size, batch and steps fit the model.

    A class list gives one for `generate`. Real images also give one for `train`, NAME-train.yaml; where only they say
    how many there are of a class, NAME-classes.csv is the list with counts.

    Example: `sixfold init photos/ --model models/my-sd`,
    `sixfold init birds.csv --real tars/`
    """
    with waiting("loading the program"):
        from gen.run.init import (
            choose_kind,
            choose_model,
            first_recipe,
            first_training,
            name_of,
            path_from,
            schema_from,
        )
        from gen.run.real_set import classes_of, counted_entries, labelled, list_text, real_counts
        from gen.run.recipe import Recipe
        from shards.disk.address import file_path, is_remote
        from shards.disk.replace import replace_file
        from shards.labels.classes import ClassSpec, load_classes
        from shards.labels.sources import SHIPPED, read_source
        from train.recipe import TrainRecipe

    file = out or Path(f"{name_of(source)}.yaml")
    training = file.with_name(f"{file.stem}-train.yaml")
    listed = file.with_name(f"{file.stem}-classes.csv")
    _refuse_there(file, training)
    with waiting(f"reading {source}"):
        own = labelled(source)
        entries = own or read_source(source)
        has_counts = any(entry.count for entry in entries)
        if real is not None and per_class is None and not has_counts:
            ours = load_classes(ClassSpec(source=source, per_class=1))
            own = entries = counted_entries(entries, real_counts(real, ours), real)
        elif per_class is None and not has_counts:
            per_class = PER_CLASS
        if own is None:
            classes = load_classes(ClassSpec(source=source, per_class=per_class))
        else:
            classes = classes_of(list_text(own), per_class)
            _refuse_there(listed)
        chosen = choose_model(model, revision)
    with waiting("measuring how long prompts are"):
        kind = choose_kind(classes, chosen.folder)
    check_file(file)
    folder, name = file.parent, name_of(file.name)
    place, model_place = (path_from(one, folder) for one in (source, chosen.model))
    pictures = None if real is None else path_from(real, folder)
    if own is not None:
        pictures, place = pictures or place, listed.name
    elif has_counts and source not in SHIPPED and (is_remote(source) or file_path(source).is_dir()):
        pictures = pictures or place
    text = first_recipe(name, place, classes, per_class, chosen, model_place, schema_from(folder, "generate"), kind)
    made = parse_recipe(text.encode(), Recipe, str(file), folder=folder)
    texts = {file: text} if own is None else {listed: list_text(own), file: text}
    if pictures is not None:
        ids = None if real is None else place  # else the pictures' own
        text = first_training(name, pictures, ids, classes, made.sampler.stored_px, schema_from(folder, "train"))
        parse_recipe(text.encode(), TrainRecipe, str(training), folder=folder)
        texts[training] = text
    for path, text in texts.items():  # none of them, if one would be refused
        replace_file(path, text.encode())
    say(f"{file}: {len(classes):,} classes, {sum(one.count for one in classes):,} images in 1x; {chosen.told}")
    if kind.told is not None:
        say(kind.told)
    if own is not None:
        say(f"{listed}: the classes, with the number of their real images")
    if training in texts:
        say(f"{training}: trains on these real images and on the synthetic ones")
    say(f"next: sixfold generate {file} --scale 1x --dry-run")

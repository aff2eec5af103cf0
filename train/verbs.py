"""The verbs of training: train, invert, sweep, report."""

import contextlib
import json
import os
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from cluster.console import (
    RecipeFile,
    check_file,
    local_path,
    only_warned,
    overrides_of,
    path_option,
    recipe_argument,
    say,
    warn,
)
from cluster.recipes.beside import default_place
from cluster.recipes.load import load_recipe
from cluster.recipes.mistake import RecipeError
from cluster.waiting import waiting
from shards.disk.home import home

if TYPE_CHECKING:
    from pydantic import BaseModel

    from cluster.process.stop_flag import StopFlag
    from train.recipe import TrainRecipe
    from train.sweep.plan import MakeSpec, SweepSpec


def _train_model() -> "type[TrainRecipe]":
    from train.recipe import TrainRecipe

    return TrainRecipe


def _sweep_model() -> "type[SweepSpec]":
    from train.sweep.plan import SweepSpec

    return SweepSpec


Overrides = Annotated[list[str] | None, overrides_of(_train_model)]
SweepOverrides = Annotated[list[str] | None, overrides_of(_sweep_model)]


def train(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, path_option("Folder of the run.", "out/train/<name of the recipe>, as of generate")
    ] = None,
    ranks: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Start this many ranks over Ray (RAY_ADDRESS, or this machine), each with a GPU where there are GPUs.",
            show_default="none: this process is all, or one rank of torchrun's or srun's",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check the recipe and what it names, and print it resolved; train nothing."),
    ] = False,
) -> None:
    """Train on shards as they stream: exact quotas of real and synthetic images, auxiliary BatchNorm, resumable.

    Run it again to continue. With `--ranks`, or under `torchrun` or `srun`, several processes train one model.

    Example: `sixfold train recipes/sandbox-train.yaml --out out/train/slow optim.lr=0.002`
    """
    with waiting("loading the program"):
        from cluster.process.exit import leave
        from cluster.process.stop_flag import StopFlag
        from cluster.ranks.group import Ranks
        from cluster.ranks.place import find_place
        from cluster.recipes.load import dump_recipe
        from train.evaluate.results import STAGES
        from train.model.classifiers import check_model_name
        from train.recipe import TrainRecipe
        from train.session.run_folder import look
        from train.sources import look_up
        from train.task.facts import FACTS

    with StopFlag() as stop, Ranks(find_place(os.environ)) as met:  # an error on one rank now ends all with its cause
        tell, check_name = (warn if met.rank == 0 else _nobody), (check_model_name if dry_run else None)
        chosen = load_recipe(recipe, TrainRecipe, overrides or (), lambda part: look_up(part, check_name).refused, tell)
        folder = _place_of(out, recipe, f"out/train/{chosen.name}", tell)
        if met.world == 1 and not dry_run and folder.exists():
            facts = FACTS[chosen.task]
            done = look(chosen, folder, facts.last_file, facts.metric)
            if done is not None:
                say(done.sentence())
                return
        refused: tuple[str, ...] = ()
        if met.rank == 0:
            with waiting("looking for what the recipe names"):
                last = FACTS[chosen.task].last_file
                finished = [one.name for one in chosen.before if (folder / STAGES / one.name / last).is_file()]
                found = look_up(chosen, check_name, finished)
            for line in found.places:
                say(f"# {line}" if dry_run else line)
            refused = found.refused
            if dry_run and found.note is not None:
                warn(found.note)
        if ranks is not None:
            for line in refused:  # the machines of the cluster may have it
                warn(f"on this machine: {line}")
            _train_over_ray(chosen, folder, ranks, stop, dry_run)
        elif dry_run:
            say(dump_recipe(chosen).rstrip())
        is_done = (folder / FACTS[chosen.task].last_file).is_file()  # then no data are needed any more
        if refused and not is_done:
            raise RecipeError.of(refused)
        if dry_run:
            return
        if met.world == 1:
            _say_what_stays_idle(1)
        with waiting("loading torch and timm") if met.rank == 0 else contextlib.nullcontext():
            from train.run import train as train_one

        outcome = train_one(chosen, folder, home(), stop, met)
    if met.rank == 0:  # the other ranks would say the same
        say(outcome.sentence())
    if met.world > 1:
        leave(outcome.exit_code)
    raise typer.Exit(outcome.exit_code)


def invert(
    recipe: RecipeFile,
    overrides: Overrides = None,
    real: Annotated[
        str | None,
        typer.Option(
            help="The real pictures whose style is learned: a data set, an image folder.",
            show_default="data.domains.0.source of the recipe",
        ),
    ] = None,
    out: Annotated[
        Path | None, path_option("Folder of the token.", "out/train/<name of the recipe>, as of generate")
    ] = None,
    ranks: Annotated[
        int | None, typer.Option(min=1, help="Start this many ranks over Ray, as of train.", show_default="none")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the recipe and what it names, and print it resolved.")
    ] = False,
) -> None:
    """Learn the style of real pictures as a new word of the generator; all its weights stay as they are.

    A recipe of `train` with task: invert. Run it again to continue. A generation says the word in every prompt with
    `prompts.style_token=FOLDER`; inversion.html shows pictures before and after.

    Example: `sixfold invert recipes/invert/sandbox.yaml --real out/real/shifted-sketch --out out/invert/sketch`
    """
    with waiting("loading the program"):
        from gen.invert.page import PAGE
        from gen.model.style_token import TOKEN
        from train.recipe import TrainRecipe

    changed = list(overrides or ())
    chosen = load_recipe(recipe, TrainRecipe, changed, say=warn)
    if chosen.invert is None:
        raise ValueError(f"{recipe}: found task {chosen.task}, expected task invert; start it with `sixfold train`")
    if real is not None:
        changed.append(f"data.domains.0.source={json.dumps(real)}")
        held_out = chosen.evaluate.validation
        if held_out is not None and held_out.source == chosen.data.domains[0].source:  # another part of the same set
            changed.append(f"evaluate.validation.source={json.dumps(real)}")
    folder = _place_of(out, recipe, f"out/train/{chosen.name}", _nobody)
    exit_code = 0
    try:
        train(recipe, changed, out, ranks, dry_run)
    except typer.Exit as ended:
        exit_code = ended.exit_code
    if exit_code == 0 and not dry_run and (folder / TOKEN).is_file():
        page = folder / PAGE
        say(f"token: {folder}" + (f"; before and after: {page}" if page.is_file() else ""))
    raise typer.Exit(exit_code)


def _nobody(line: str) -> None:
    """Hears what another rank says."""


def _place_of(out: Path | None, recipe: Path, usual: str, tell: Callable[[str], None]) -> Path:
    """The folder of a run; `tell` hears if it might be another one."""
    if out is not None:
        return out
    place, note = default_place(recipe, usual)
    if note is not None:
        tell(note)
    return Path(place)


def _say_what_stays_idle(gpus_used: int) -> None:
    from cluster.process.slurm import idle_parts

    all_nodes = "start it with srun on all of them, or with --ranks on a Ray cluster (RAY_ADDRESS)"
    for line in idle_parts(os.environ, gpus_used, all_nodes, "start it with srun, or give --ranks"):
        warn(line)


def _train_over_ray(recipe: "TrainRecipe", folder: Path, ranks: int, stop: "StopFlag", dry_run: bool) -> NoReturn:
    with waiting("loading Ray"):
        from cluster.recipes.load import dump_recipe
        from train.session.over_ray import check_over_ray, describe_over_ray, train_over_ray

    check_over_ray(recipe, ranks, os.environ)
    if dry_run:
        say(f"# {describe_over_ray(recipe, ranks, folder, os.environ)}\n{dump_recipe(recipe).rstrip()}")
        raise typer.Exit(0)
    _say_what_stays_idle(ranks)
    outcome = train_over_ray(recipe, folder, ranks, stop, say=partial(say, err=True))
    say(outcome.line if outcome.is_good else f"sixfold: {outcome.line}", err=not outcome.is_good)
    raise typer.Exit(outcome.exit_code)


def sweep(
    sweep: Annotated[Path, recipe_argument("SWEEP", "A YAML file; see recipes/sweeps/.")],
    overrides: SweepOverrides = None,
    out: Annotated[
        Path | None, path_option("Folder of the sweep.", "out/sweeps/<name of the sweep>, as of generate")
    ] = None,
    points: Annotated[
        str | None,
        typer.Option(help="Train these points only, such as 0x,6x; a later call goes on.", show_default="all"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print points, runs and minutes; train nothing.")] = False,
) -> None:
    """Train a grid of recipe changes times seeds, make the data sets it needs, and write its report.

    Run it again to continue.

    Example: `sixfold sweep recipes/sweeps/scale.yaml --points 0x,6x --dry-run`
    """
    with waiting("loading the program"):
        from cluster.process.slurm import idle_parts
        from cluster.process.stop_flag import StopFlag
        from train.recipe import TrainRecipe
        from train.report.report import write_report
        from train.sweep.done import describe_sweep
        from train.sweep.plan import SweepSpec, chosen_runs, labels_in, plan_runs
        from train.sweep.progress import SweepProgress
        from train.sweep.run import run_sweep

    for key in [override.partition("=")[0] for override in overrides or ()]:
        if key.partition(".")[0] in TrainRecipe.model_fields.keys() - SweepSpec.model_fields.keys():
            raise ValueError(f"command line: `{key}` is a field of runs; for all runs of a sweep set `changes.{key}`")
    spec = load_recipe(sweep, SweepSpec, overrides or (), say=warn)
    base = load_recipe(spec.base, TrainRecipe, say=warn)
    folder = _place_of(out, sweep, f"out/sweeps/{spec.name}", warn)
    runs = plan_runs(spec, base)
    labels = None if points is None else labels_in(points, list(spec.points))
    wanted = chosen_runs(runs, labels)
    if dry_run:
        with waiting("looking at what is done"):
            described = describe_sweep(spec, wanted, folder)
        say(described)
        return
    check_file(folder / "sweep.yaml")
    for line in idle_parts(os.environ, spec.cluster.gpus_used):
        warn(line)
    progress = SweepProgress(spec, runs, say)
    with StopFlag() as stop, waiting(progress.line):
        make = partial(_make_data, stop)
        outcome = run_sweep(spec, base, folder, home(), stop, make, progress, labels=labels, on_begin=progress.begin)
    if outcome.done:
        remedy = f"`sixfold report {shlex.quote(str(folder))}` writes one"
        with only_warned("no report", remedy), waiting("writing the report"):
            page = write_report([folder], folder / "report.html")
            say(f"report: {page}")
    say(outcome.sentence())
    raise typer.Exit(outcome.exit_code)


def report(
    folders: Annotated[
        list[Path], typer.Argument(parser=local_path, metavar="FOLDER...", help="Folders of runs or sweeps.")
    ],
    out: Annotated[Path, path_option("The page to write.")] = Path("out/report.html"),
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the tables in Markdown instead.")] = False,
) -> None:
    """Write a page of what was gained over which baseline: accuracy against scale, ablations, intervals.

    Example: `sixfold report out/sweeps/scale --out out/report.html`
    """
    with waiting("loading the program"):
        from train.evaluate.results import find_results
        from train.report.comparison import compare
        from train.report.report import write_report
        from train.report.words import method, results_table

    found = find_results(folders)
    if not found.results:
        raise ValueError(
            f"{', '.join(map(str, folders))}: found no results, expected folders of `sixfold train` or `sixfold "
            "sweep`; a training without evaluate.tests has none, and `sixfold evaluate` measures it"
        )
    if markdown:
        compared = compare(found.results)
        for problem in (*found.problems, *compared.problems):
            warn(problem)
        say(f"{results_table(compared)}\n{method(compared)}")
        return
    with waiting("writing the report"):
        page = write_report(folders, out)
    say(f"report: {page}")


def _make_data(stop: "StopFlag", make: "MakeSpec") -> None:
    """A data set or a style token that a sweep needs; raises unless it is whole, Draining if `stop` ended it before."""
    from cluster.process.exit import EXIT_AGAIN, Draining
    from cluster.recipes.load import kind_of
    from gen.edit.recipe import EditRecipe
    from gen.edit.run import run as edit
    from gen.make.plan import parse_scale
    from gen.run.recipe import Recipe
    from gen.run.run import run as generate
    from retrieve.run.recipe import RetrieveRecipe
    from retrieve.run.run import run as retrieve
    from train.recipe import TrainRecipe
    from train.sweep.plan import USUAL_SCALE

    kinds: dict[str, type[BaseModel]] = {
        "generate": Recipe,
        "edit": EditRecipe,
        "retrieve": RetrieveRecipe,
        "invert": TrainRecipe,
    }
    kind = kind_of(make.recipe, kinds)
    if kind == "invert":
        say(f"style token: {make.out}: {make.recipe}")
        exit_code, sentence = _make_token(stop, make)
    else:
        scale = parse_scale(make.scale or USUAL_SCALE)
        say(f"data: {make.out}: {make.recipe} at {scale}")
        if kind == "edit":
            outcome = edit(
                load_recipe(make.recipe, EditRecipe, make.overrides), scale, make.out, home(), stop, say=warn
            )
        elif kind == "retrieve":
            retrieval = load_recipe(make.recipe, RetrieveRecipe, make.overrides)
            outcome = retrieve(retrieval, scale, make.out, home(), stop, say=warn)
        else:
            outcome = generate(
                load_recipe(make.recipe, Recipe, make.overrides), scale, make.out, home(), stop, say=warn
            )
        exit_code, sentence = outcome.exit_code, outcome.sentence()
    if exit_code == EXIT_AGAIN:
        raise Draining(f"{make.out}: stopped on request while the sweep's data was being made")
    if exit_code:
        raise ValueError(f"{make.out}: {' '.join(sentence.split())}")


def _make_token(stop: "StopFlag", make: "MakeSpec") -> tuple[int, str]:
    """The exit code and the sentence of an inversion, in this process; of one that was finished before without torch.
    Raises ValueError for a recipe of another training."""
    from cluster.ranks.group import Ranks
    from cluster.ranks.place import find_place
    from shards.disk.address import file_path
    from train.recipe import TrainRecipe
    from train.session.run_folder import look
    from train.task.facts import FACTS

    recipe = load_recipe(make.recipe, TrainRecipe, make.overrides, say=warn)
    if recipe.invert is None:
        raise ValueError(
            f"{make.recipe}: found a training with task {recipe.task} under `make`, expected one with task invert; a "
            "sweep trains its points, and makes data sets and style tokens"
        )
    if make.scale is not None:
        raise ValueError(
            f"{make.recipe}: found scale: {make.scale} beside a style token, expected none; take it out of `make`"
        )
    folder, facts = file_path(make.out), FACTS[recipe.task]
    done = look(recipe, folder, facts.last_file, facts.metric) if folder.exists() else None
    if done is None:
        with waiting("loading torch"):
            from train.run import train as train_one

        with Ranks(find_place({})) as alone:
            done = train_one(recipe, folder, home(), stop, alone)
    return done.exit_code, done.sentence()

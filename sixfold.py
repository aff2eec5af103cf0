"""The command line: one verb per stage, the only file that imports all packages.

`sixfold VERB RECIPE|FOLDER`. A mistake is one line on stderr and exit 2; `sixfold --debug VERB …` shows the traceback.
Exit codes: 0 complete, 1 the run could not go on, 2 a mistake in what was asked, 3 incomplete or damaged (what, is
named), 75 stopped on request: run the same command again.
"""

import contextlib
import errno
import importlib.metadata
import importlib.util
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn, TypeVar

import typer

HOME = Path(__file__).resolve().parent
PACKAGES = ("cluster", "gen", "retrieve", "shards", "train")
INTERRUPTED = 130  # what typer makes of Ctrl-C
SAID_OF_RUNS = {
    "unit_started": "began",
    "unit_done": "done",
    "unit_failed": "failed",
    "unit_quarantined": "given up",
}
# errors of the operating system, in our words and with what to do
EXPLAINED = {
    errno.ENOENT: "found no such file or folder; check the path",
    errno.EEXIST: "found a file, expected a folder; give another place",
    errno.ENOTDIR: "found a file in this path, expected folders; give another place",
    errno.EISDIR: "found a folder, expected a file; give its name too",
    errno.ENAMETOOLONG: "found too long a name; give a shorter one",
    errno.EACCES: "may not be read or written by you; give another place, or ask for the right",
    errno.EPERM: "may not be read or written by you; give another place, or ask for the right",
    errno.EROFS: "is read-only; give a place that can be written",
    errno.ENOSPC: "found no room there; make some, and run the same command again",
    errno.EDQUOT: "found no room there; make some, and run the same command again",
}
REGENERATE_TOLERANCE = 2.0  # mean difference of pixel values, of 255; kernels of a GPU round differently between runs

if TYPE_CHECKING:
    from pydantic import BaseModel

    from cluster.fan_out.events import Event
    from cluster.process.stop_flag import StopFlag
    from shards.disk.store import Store
    from shards.views.census import Subset
    from shards.views.image_folder import KnownClass
    from train.recipe import TrainRecipe
    from train.sweep.sweep import MakeSpec, Run

    AnyModel = TypeVar("AnyModel", bound=BaseModel)

app = typer.Typer(
    name="sixfold",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="markdown",
    help="From a list of class names to a training set several times the size of your real one, on every GPU you have.",
)

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file; see recipes/.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY.SUB=VALUE]...", help="Recipe fields to replace, values in YAML.", show_default="none"),
]
Folder = Annotated[
    str, typer.Argument(metavar="FOLDER", help="The data set: a folder or a URL such as s3://bucket/name.")
]
Scale = Annotated[str, typer.Option(help="Multiple of the real set: 0.5x, 1x, 6x.")]
SingleWriter = Annotated[
    bool,
    typer.Option("--single-writer", help="For stores without exclusive create: you promise that one run writes to it."),
]


def check_home(root: Path) -> None:
    """Raise ImportError if one of our package names resolves outside `root`; the line names who shadows it."""
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        places = [Path(place).resolve().parent for place in (spec.submodule_search_locations or ())] if spec else []
        if places != [root]:
            owner = importlib.metadata.packages_distributions().get(name, ["a folder on PYTHONPATH"])
            raise ImportError(
                f"`{name}` comes from {', '.join(map(str, places)) or 'nowhere'}, expected {root}; "
                f"uninstall or move {', '.join(sorted(set(owner)))}"
            )


def _version(asked: bool) -> None:
    if asked:
        from cluster.code import code_hash

        typer.echo(f"sixfold {importlib.metadata.version('sixfold')}, code {code_hash(HOME)[:12]}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks instead of one line.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and the hash of the code.", callback=_version, is_eager=True),
    ] = False,
) -> None:
    from cluster.doctor import clear_unsafe_switches

    for name in clear_unsafe_switches(os.environ):
        typer.echo(f"sixfold: {name} was set and is ignored: it would switch off a safety check", err=True)


@app.command()
def generate(
    recipe: RecipeFile,
    overrides: Overrides = None,
    scale: Scale = "6x",
    out: Annotated[str, typer.Option(help="Where the shards go: a folder or a URL.")] = "out/sandbox",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print plan, space and cost; touch nothing.")] = False,
    in_process: Annotated[bool, typer.Option("--in-process", help="One worker in this process, without Ray.")] = False,
    gallery: Annotated[bool, typer.Option(help="Write the gallery page when images were made.")] = True,
    single_writer: SingleWriter = False,
) -> None:
    """Make the images, on every GPU (or core) there is. Run it again to continue or to raise the scale.

    Example: `sixfold generate recipes/sandbox.yaml --scale 6x --out out/sandbox-20 sampler.steps=20`
    """
    from cluster.process.stop_flag import StopFlag
    from gen.describe import describe
    from gen.make.plan import parse_scale
    from gen.recipe import Recipe
    from gen.run import run
    from shards.labels.classes import load_classes

    chosen = _read(
        "generate", recipe, Recipe, [*(overrides or []), *(["cluster.in_process=true"] if in_process else [])]
    )
    asked = parse_scale(scale)
    if dry_run:
        typer.echo(describe(chosen, load_classes(chosen.classes), asked))
        return
    with StopFlag() as stop:
        outcome = run(chosen, asked, out, HOME, stop, single_writer, _warn)
    if gallery and outcome.made_units:
        typer.echo(f"gallery: {_gallery(out)}")
    typer.echo(outcome.sentence())
    raise typer.Exit(outcome.exit_code)


@app.command()
def meanings(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="Also write the choice, one line of JSON a class.", show_default="none")
    ] = None,
    show: Annotated[int, typer.Option(min=0, help="How many classes to print, the least certain first.")] = 50,
) -> None:
    """Choose which sense of each class name is meant and print the choice, the least certain first.

    What is wrong is corrected by hand, in a YAML file of lines `name or id: phrase` (`meanings.overrides=FILE`).

    Example: `sixfold meanings recipes/sandbox.yaml --out out/meanings.jsonl`
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from cluster.process.stop_flag import StopFlag
    from gen.prompts.meanings import TABLE_COLUMNS, meaning_table, write_meanings
    from gen.prompts.write import meanings_only
    from gen.recipe import Recipe
    from shards.disk.store import printable
    from shards.labels.classes import load_classes

    chosen = _read("generate", recipe, Recipe, overrides)
    if out is not None:
        _check_file(out)
    with StopFlag() as stop:
        found = meanings_only(chosen, load_classes(chosen.classes.uncounted()), _warn, stop)
    table = Table(*TABLE_COLUMNS)
    for row in meaning_table(found)[:show]:
        table.add_row(*(Text(printable(cell)) for cell in row))
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    if out is not None:
        write_meanings(found, out)
    sources = Counter(meaning.source for meaning in found)
    parts = ", ".join(f"{count:,} {source.replace('_', ' ')}" for source, count in sorted(sources.items()))
    typer.echo(f"{len(found):,} {'class' if len(found) == 1 else 'classes'}: {parts}" + (f"; in {out}" if out else ""))


@app.command()
def prompts(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="The folder to write.")] = Path("out/prompts"),
    show: Annotated[int, typer.Option(min=0, help="How many classes to print a prompt of.")] = 10,
    report: Annotated[bool, typer.Option(help="Measure how much the prompts differ, and write diversity.html.")] = True,
) -> None:
    """Choose meanings, draw all prompts and tell how much they differ, before any GPU hour is spent.

    Writes meanings.jsonl, prompts.parquet and diversity.html. A run takes the table with `prompts.file=…`. Which sense
    of a name is meant is chosen by `meanings.choose=clip` (candidates from `llm`, a lexicon or WordNet; `meanings.real`
    and `meanings.clip` compare them with real images); `prompts.kind` is name, template, caption, cd, sd or cd+sd.

    Example: `sixfold prompts recipes/sandbox.yaml --out out/prompts --show 20`
    """
    from cluster.process.stop_flag import StopFlag
    from gen.prompts.diversity_figures import report_lines
    from gen.prompts.diversity_page import write_page
    from gen.prompts.table import PromptTable
    from gen.prompts.write import PROMPTS, measure, write_prompts
    from gen.recipe import Recipe
    from shards.disk.store import printable
    from shards.labels.classes import load_classes

    chosen = _read("generate", recipe, Recipe, overrides)
    classes = load_classes(chosen.classes.uncounted())
    out.mkdir(parents=True, exist_ok=True)
    with StopFlag() as stop:
        made = write_prompts(chosen, classes, out, _warn, stop)
    for sentence in made.sentences():
        typer.echo(sentence)
    table = PromptTable.load(out / PROMPTS)
    for one in classes[:show]:
        typer.echo(printable(f"{one.id:>4} {one.name}: {table.prompt(one.id, 0).text}"))
    if report:
        measured = measure(out / PROMPTS, chosen.seed, chosen.meanings.clip, chosen.sampler, _warn)
        write_page(measured, out / "diversity.html")
        for line in report_lines(measured):
            typer.echo(line)
        typer.echo(f"page: {out / 'diversity.html'}")
    typer.echo(f"{len(table):,} prompts for {len(classes):,} classes in {out / PROMPTS}")


@app.command()
def plan(
    recipe: RecipeFile,
    overrides: Overrides = None,
    scale: Scale = "6x",
    out: Annotated[
        Path | None, typer.Option(help="Write one row per sample to this parquet file.", show_default="none")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Walk the whole plan and print it; write nothing.")
    ] = False,
) -> None:
    """Print what a scale means: folds, shards, images, bytes, hours; optionally write every sample to a file.

    Example: `sixfold plan recipes/imagenet-sd15-6x.yaml --scale 6x --dry-run`
    """
    from gen.describe import describe, walk_plan
    from gen.make.plan import parse_scale
    from gen.recipe import Recipe
    from shards.labels.classes import load_classes

    chosen = _read("generate", recipe, Recipe, overrides)
    asked = parse_scale(scale)
    if out is not None and not dry_run:
        _check_file(out)
    classes = load_classes(chosen.classes)
    typer.echo(describe(chosen, classes, asked))
    if dry_run or out:
        typer.echo(walk_plan(chosen, classes, asked, None if dry_run else out))


@app.command()
def verify(
    folder: Folder,
    regenerate: Annotated[int, typer.Option(min=0, help="Make this many images again and compare.")] = 0,
    seed: Annotated[int, typer.Option(help="Which images --regenerate draws.")] = 0,
) -> None:
    """Read every byte, compare with hashes and tables, name every damage. Exit 3 if there is any.

    Example: `sixfold verify out/sandbox --regenerate 20`
    """
    from cluster.process.exit import EXIT_INCOMPLETE
    from shards.disk.amounts import counted, size_text
    from shards.disk.store import no_shards, open_for_reading
    from shards.set.status import asked_units
    from shards.set.verify import verify as verify_all

    store = open_for_reading(folder)
    with _bar("verify") as advance:
        report = verify_all(store, advance, expected=asked_units(store))
    if not report.shards and not report.damages:
        raise no_shards(store)
    for damage in report.damages:
        typer.echo(str(damage))
    typer.echo(
        f"{counted(report.shards, 'shard')}, {counted(report.samples, 'sample')}, {counted(report.rows, 'row')}, "
        f"{size_text(report.bytes)}: "
        + (f"{counted(len(report.damages), 'damage')}; `sixfold repair {folder}`" if report.damages else "no damage")
    )
    if report.damages:
        raise typer.Exit(EXIT_INCOMPLETE)
    if regenerate:
        from gen.remake import regenerate_images

        compared = regenerate_images(store, regenerate, seed)
        others = [one for one in compared if not one.same_bytes]
        for one in others:
            typer.echo(f"{one.key}: made again it differs by {one.mean_difference:.3f} of 255 in the mean")
        same = len(compared) - len(others)
        typer.echo(f"{counted(len(compared), 'image')} made again: {same:,} with the same bytes")
        if any(one.mean_difference > REGENERATE_TOLERANCE for one in compared):
            raise typer.Exit(EXIT_INCOMPLETE)


@app.command()
def repair(
    folder: Folder,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be moved; move nothing.")] = False,
) -> None:
    """Move damaged shards to _meta/quarantine, so that the same `generate` makes exactly these again.

    Example: `sixfold repair out/sandbox --dry-run`
    """
    from cluster.process.lease import Lease
    from shards.disk.amounts import counted
    from shards.disk.layout import META, SHARD_PATTERN
    from shards.disk.store import FolderStore, no_shards, open_for_reading, open_store
    from shards.set.repair import repair as repair_all
    from shards.set.verify import verify as verify_all

    there = open_for_reading(folder)
    if not any(SHARD_PATTERN.fullmatch(name[:5]) for name in there.list()) and not there.list(f"{META}/"):
        raise no_shards(there)  # before a folder that is no data set gets a _meta
    store = open_store(folder)
    lock_folder = store.root if isinstance(store, FolderStore) else None
    with Lease.take(store, "repair", _warn, lock_folder=lock_folder), _bar("verify") as advance:
        report = verify_all(store, advance)
        damaged = report.damaged_shards()
        moved = {} if dry_run else repair_all(store, report)
    for shard in damaged:
        where = f"moved to {moved[shard][0].rpartition('/')[0]}" if shard in moved else "damaged"
        typer.echo(f"shard {shard:05d}: {where}")
    typer.echo(
        "nothing to repair"
        if not damaged
        else f"{counted(len(damaged), 'shard')} "
        + ("would be moved" if dry_run else "moved; run the same generate again")
    )


@app.command()
def show(
    folder: Folder,
    out: Annotated[
        Path | None, typer.Option(help="Where the page goes.", show_default="_meta/gallery of the data set")
    ] = None,
    subset: Annotated[str | None, typer.Option(help="A subset's name such as 2x.", show_default="everything")] = None,
) -> None:
    """Write a static page of the images by class, with prompt, seed and status; it opens from disk.

    Example: `sixfold show out/sandbox`
    """
    typer.echo(_gallery(folder, out, subset))


@app.command()
def export(
    folder: Folder,
    to: Annotated[
        Literal["timm", "open_clip", "dali", "huggingface", "image_folder", "shards"],
        typer.Option(help="Who shall read it; shards: FOLDER is an image folder that becomes shards."),
    ],
    out: Annotated[str, typer.Option(help="The folder to write; must not exist yet (shards: may be a URL).")],
    subset: Annotated[str | None, typer.Option(help="A subset's name such as 2x.", show_default="everything")] = None,
    unlicensed: Annotated[
        Literal["refuse", "leave_out", "keep"],
        typer.Option(help="Samples without a known licence; keep is for your own use."),
    ] = "refuse",
    licence: Annotated[
        str | None, typer.Option(help="With --to shards: the licence of the pictures.", show_default="none")
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="With --to shards: where ids and names of the classes come from: imagenet-1k, a list, or another "
            "data set. Needed for a folder with a part of the classes.",
            show_default="the folders' numbers or sorted order",
        ),
    ] = None,
) -> None:
    """Write what another tool wants beside links to the shards, or turn an image folder into shards.

    Example: `sixfold export out/sandbox --to timm --out out/sandbox-timm --subset 6x`
    """
    from cluster.process.exit import EXIT_INCOMPLETE
    from shards.disk.amounts import counted
    from shards.disk.store import open_for_reading
    from shards.views import export as exports
    from shards.views.image_folder import export_image_folder, import_image_folder

    if to == "shards":
        if subset is not None or unlicensed != "refuse":
            raise ValueError("--subset and --unlicensed choose among the samples of a data set; not with --to shards")
        with _bar("import") as advance:
            table = None if classes is None else _known_classes(classes)
            imagenet = partial(_known_classes, "imagenet-1k")
            done = import_image_folder(
                Path(folder), out, licence=licence, classes=table, imagenet=imagenet, progress=advance
            )
        typer.echo(
            f"{counted(done.num_samples, 'image')} in {counted(done.num_shards, 'shard')} in {out}; "
            f"{done.num_failed:,} not readable"
        )
        raise typer.Exit(EXIT_INCOMPLETE if done.num_failed else 0)
    if licence is not None:
        raise ValueError("--licence is written when pictures become shards; give it with --to shards only")
    if classes is not None:
        raise ValueError("--classes gives ids to pictures that become shards; give it with --to shards only")
    formats = {
        "timm": exports.export_timm,
        "open_clip": exports.export_open_clip,
        "dali": exports.export_dali,
        "huggingface": exports.export_hugging_face,
        "image_folder": export_image_folder,
    }
    store = open_for_reading(folder)
    choice = exports.Choice(_subset(store, subset), unlicensed)
    exported = formats[to](store, Path(out), choice)
    left_out = f", {exported.num_left_out:,} without licence left out" if exported.num_left_out else ""
    typer.echo(f"{counted(exported.num_samples, 'sample')} for {to} in {out}{left_out}")


@app.command()
def train(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run.", show_default="out/train/<name of the recipe>")
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
        bool, typer.Option("--dry-run", help="Check the recipe and print it resolved; train nothing.")
    ] = False,
) -> None:
    """Train on shards as they stream: exact quotas of real and synthetic images, auxiliary BatchNorm, resumable.

    Run it again to continue. With `--ranks`, or under `torchrun` or `srun`, several processes train one model.

    Example: `sixfold train recipes/sandbox-train.yaml --out out/train/slow optim.lr=0.002`
    """
    from cluster.process.stop_flag import StopFlag
    from cluster.ranks.group import Ranks, find_place
    from cluster.recipes.load import dump_recipe
    from train.recipe import TrainRecipe

    with StopFlag() as stop, Ranks(find_place(os.environ)) as met:  # an error on one rank now ends all with its cause
        chosen = _read("train", recipe, TrainRecipe, overrides)
        folder = out or Path("out/train") / chosen.name
        if ranks is not None:
            _train_over_ray(chosen, folder, ranks, stop, dry_run)
        elif dry_run:
            typer.echo(dump_recipe(chosen).rstrip())
            return
        from train.session.session import train as train_one  # seconds: torch and timm

        outcome = train_one(chosen, folder, HOME, stop, met)
    if met.rank == 0:  # the other ranks would say the same
        typer.echo(outcome.sentence())
    raise typer.Exit(outcome.exit_code)


def _train_over_ray(recipe: "TrainRecipe", folder: Path, ranks: int, stop: "StopFlag", dry_run: bool) -> NoReturn:
    from cluster.recipes.load import dump_recipe
    from train.session.over_ray import check_start, describe_start, start

    check_start(recipe, ranks, os.environ)
    if dry_run:
        typer.echo(f"# {describe_start(recipe, ranks, folder, os.environ)}\n{dump_recipe(recipe).rstrip()}")
        raise typer.Exit(0)
    outcome = start(recipe, folder, ranks, stop, say=partial(typer.echo, err=True))
    typer.echo(outcome.line if outcome.is_good else f"sixfold: {outcome.line}", err=not outcome.is_good)
    raise typer.Exit(outcome.exit_code)


@app.command()
def sweep(
    sweep: Annotated[Path, typer.Argument(metavar="SWEEP", help="A YAML file; see recipes/sweeps/.")],
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the sweep.", show_default="out/sweeps/<name of the sweep>")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print points, runs and minutes; train nothing.")] = False,
) -> None:
    """Train a grid of recipe changes times seeds, make the data sets it needs, and write its report.

    Run it again to continue.

    Example: `sixfold sweep recipes/sweeps/scale.yaml --dry-run`
    """
    from cluster.process.stop_flag import StopFlag
    from train.recipe import TrainRecipe
    from train.report.report import write_report
    from train.sweep.sweep import SweepSpec, describe_sweep, plan_runs, run_sweep

    for key in [override.partition("=")[0] for override in overrides or ()]:
        if key.partition(".")[0] in TrainRecipe.model_fields.keys() - SweepSpec.model_fields.keys():
            raise ValueError(f"command line: `{key}` is a field of runs; for all runs of a sweep set `changes.{key}`")
    spec = _read("sweep", sweep, SweepSpec, overrides)
    base = _read("train", spec.base, TrainRecipe)
    folder = out or Path("out/sweeps") / spec.name
    runs = plan_runs(spec, base)
    if dry_run:
        typer.echo(describe_sweep(spec, runs, folder))
        return
    _check_file(folder / "sweep.yaml")
    with StopFlag() as stop:
        outcome = run_sweep(spec, base, folder, HOME, stop, partial(_make_data, stop), partial(_say_run, runs))
    if outcome.done:
        typer.echo(f"report: {write_report([folder], folder / 'report.html')}")
    typer.echo(outcome.sentence())
    raise typer.Exit(outcome.exit_code)


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Folders of runs or sweeps.")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("out/report.html"),
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the tables in Markdown instead.")] = False,
) -> None:
    """Write a page that says whether synthetic images paid off: accuracy against scale, ablations, intervals.

    Example: `sixfold report out/sweeps/scale --out out/report.html`
    """
    from train.evaluate.results import find_results
    from train.report.comparison import compare, results_table
    from train.report.report import write_report

    found = find_results(folders)
    if not found.results:
        raise ValueError(
            f"{', '.join(map(str, folders))}: found no results, expected folders of `sixfold train` or `sixfold sweep`"
        )
    if markdown:
        typer.echo(results_table(compare(found.results)))
        return
    typer.echo(f"report: {write_report(folders, out)}")


@app.command()
def status(folder: Folder) -> None:
    """How far a run is: shards, images, rejected draws, the last summary, who writes now.

    Exit 3 if shards are known to be damaged, or if some that the last call was asked for are missing or short.

    Example: `sixfold status out/sandbox`
    """
    from cluster.process.exit import EXIT_INCOMPLETE
    from cluster.process.lease import writer_of
    from shards.disk.store import open_for_reading
    from shards.set.status import status_of

    store = open_for_reading(folder)
    state = status_of(store, writer_of(store))
    typer.echo(state.text)
    raise typer.Exit(0 if state.is_whole else EXIT_INCOMPLETE)


@app.command()
def doctor(
    out: Annotated[Path, typer.Option(help="The folder that a run would write.")] = Path("out"),
) -> None:
    """Check this machine: versions, GPUs, memory, disk, Ray, safety switches, the sandbox. Exit 3 if one is bad.

    Example: `sixfold doctor --out out/sandbox`
    """
    from cluster.doctor import Check, examine
    from cluster.process.exit import EXIT_INCOMPLETE

    missing = Check("sandbox", "bad", "no models in sandbox/models", "make them with `make sandbox`")
    models = HOME / "sandbox" / "models" / "generator" / "model_index.json"
    sandbox = Check("sandbox", "ok", "models are there") if models.is_file() else missing
    checks = [*examine(os.environ, out), sandbox]
    for check in checks:
        advice = f"  -> {check.advice}" if check.verdict != "ok" else ""
        typer.echo(f"{check.verdict:<5}{check.name:<18}{check.found}{advice}")
    raise typer.Exit(EXIT_INCOMPLETE if any(check.verdict == "bad" for check in checks) else 0)


def _known_classes(source: str) -> "list[KnownClass]":
    """The classes of a shipped name, a list or a data set, as an import matches folders with them."""
    from shards.labels.classes import ClassSpec, load_classes
    from shards.views.image_folder import KnownClass

    found = load_classes(ClassSpec(source=source, per_class=1))
    return [KnownClass(one.id, one.name, one.wordnet_id) for one in found]


def _make_data(stop: "StopFlag", make: "MakeSpec") -> None:
    """A data set that a sweep needs; raises unless it is whole, Draining if `stop` ended it before."""
    from cluster.process.exit import EXIT_AGAIN, Draining
    from gen.make.plan import parse_scale
    from gen.recipe import Recipe
    from gen.run import run

    recipe = _read("generate", make.recipe, Recipe, make.overrides)
    typer.echo(f"data: {make.out}: {make.recipe} at {make.scale}")
    outcome = run(recipe, parse_scale(make.scale), make.out, HOME, stop, say=_warn)
    if outcome.exit_code == EXIT_AGAIN:
        raise Draining(f"{make.out}: stopped on request while the sweep's data was being made")
    if outcome.exit_code:
        raise ValueError(f"{make.out}: {' '.join(outcome.sentence().split())}")


def _say_run(runs: "Sequence[Run]", event: "Event") -> None:
    """A line for every run of a sweep that began, ended or failed."""
    if event.unit is not None and event.kind in SAID_OF_RUNS:
        told = f": {event.message}" if event.message else ""
        typer.echo(f"{event.at_s:7.0f} s  {runs[event.unit].title} {SAID_OF_RUNS[event.kind]}{told}")


def _read(verb: str, path: Path, model: "type[AnyModel]", overrides: Sequence[str] | None = None) -> "AnyModel":
    """The recipe; one of another verb is refused with that verb's name."""
    from cluster.recipes.load import RecipeError, kind_of, load_recipe

    try:
        return load_recipe(path, model, overrides or [])
    except RecipeError:
        from gen.recipe import Recipe
        from train.recipe import TrainRecipe
        from train.sweep.sweep import SweepSpec

        kinds: dict[str, type[BaseModel]] = {"generate": Recipe, "train": TrainRecipe, "sweep": SweepSpec}
        fits = kind_of(path, {verb: model, **kinds})
        if fits in (None, verb):
            raise
        raise ValueError(
            f"{path}: found a recipe of `sixfold {fits}`, expected one of `sixfold {verb}`; run `sixfold {fits} {path}`"
        ) from None


def _check_file(path: Path) -> None:
    """Raise ValueError before long work if `path` cannot be written after it."""
    if path.is_dir():
        raise ValueError(f"{path}: found a folder, expected the name of a file; give one in it")
    in_the_way = next((parent for parent in path.parents if parent.is_file()), None)
    if in_the_way is not None:
        raise ValueError(f"{path}: {in_the_way} is a file, expected a folder; give another place")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ValueError(f"{path}: cannot be written ({error.strerror}); give another place") from None


def _warn(message: str) -> None:
    typer.echo(f"sixfold: {message}", err=True)


def _gallery(folder: str, out: Path | None = None, subset: str | None = None) -> Path:
    from shards.disk.layout import META
    from shards.disk.store import FolderStore, open_for_reading
    from shards.views.gallery import write_gallery

    store = open_for_reading(folder)
    if out is None:
        if not isinstance(store, FolderStore):
            raise ValueError(f"{store.url}: a page for a store is written to a folder; give one with --out")
        out = store.root / META / "gallery"
    with _bar("gallery") as advance:
        return write_gallery(store, out, subset=_subset(store, subset), subset_name=subset or "", progress=advance)


def _subset(store: "Store", name: str | None) -> "Subset | None":
    if name is None:
        return None
    from shards.set.manifest import read_subset
    from shards.views.census import subset_of

    return subset_of(read_subset(store, name)[0])


@contextlib.contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _explain(error: Exception) -> int:
    """One line on stderr; the exit code."""
    from cluster.process.exit import EXIT_AGAIN, EXIT_FAILED, EXIT_MISTAKE, Draining

    if isinstance(error, typer.Exit):
        return error.exit_code
    if isinstance(error, typer.Abort):
        return EXIT_FAILED
    if type(error).__name__ == "NoArgsIsHelpError":  # the help was printed
        return 0
    if isinstance(error, Draining):
        typer.echo(f"sixfold: {error}; run the same command again to continue", err=True)
        return EXIT_AGAIN
    from cluster.recipes.mistake import in_plain_words

    message = in_plain_words(error.format_message()) if isinstance(error, typer.TyperException) else _message(error)
    line = " ".join(message.split()) or type(error).__name__
    if type(error).__name__ in ("NoSuchOption", "MissingParameter"):
        line = f"{line.rstrip('.')}; `{error.ctx.command_path} --help` shows them"  # type: ignore[attr-defined]
    # LeaseHeld and ClusterError are the RuntimeErrors that are written for people
    ours = type(error).__module__.startswith("cluster.")
    if ours or isinstance(error, (ValueError, OSError, ImportError, typer.TyperException)):
        typer.echo(f"sixfold: {line}", err=True)
        return EXIT_MISTAKE
    typer.echo(f"sixfold: {type(error).__name__}: {line}; this is a fault of ours, see `sixfold --debug …`", err=True)
    return EXIT_FAILED


def _message(error: Exception) -> str:
    """What the error says; of one of the operating system its file and our words for it."""
    if not isinstance(error, OSError) or error.errno is None or error.filename is None:
        return str(error)
    words = EXPLAINED.get(error.errno, f"{error.strerror}; `sixfold --debug …` shows where")
    return f"{error.filename}: {words}"


def main() -> None:
    debug = "--debug" in sys.argv[1:]
    try:
        check_home(HOME)
        code = app(standalone_mode=False, prog_name="sixfold")
    except Exception as error:  # the edge of the program: every error becomes one line and an exit code
        if debug:
            raise
        code = _explain(error)
    except KeyboardInterrupt:
        code = INTERRUPTED
    if code == INTERRUPTED:  # in a verb that has nothing to finish first
        from cluster.process.exit import EXIT_AGAIN

        typer.echo("sixfold: stopped on request; run the same command again", err=True)
        code = EXIT_AGAIN
    sys.exit(code or 0)


if __name__ == "__main__":
    main()

"""The verbs of measuring: evaluate, measure."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.console import check_file, path_option, say, warn
from cluster.waiting import waiting

if TYPE_CHECKING:
    from train.evaluate.subject import Subject


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="The folder of a training or of an export, a .safetensors file with config.json beside it, a model of "
            "timm (resnet50.a1_in1k) or a hub id that is in the hub cache.",
        ),
    ],
    on: Annotated[
        list[str],
        typer.Option(
            "--on",
            metavar="SOURCE",
            help="What to measure on, also several times: a data set, tars, an image folder, a folder of Hugging Face "
            "datasets.",
        ),
    ],
    out: Annotated[Path | None, path_option("Folder of the results.", "out/evaluate/<the model>")] = None,
    revision: Annotated[
        str | None, typer.Option(help="Commit of a hub id, 40 hex digits.", show_default="the one in the hub cache")
    ] = None,
    subset: Annotated[
        str | None, typer.Option(help="A subset's name such as 2x, or a split.", show_default="everything")
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="What the model's outputs are called: imagenet-1k, a list, or a data set.",
            show_default="as stands beside the weights",
        ),
    ] = None,
    own_classes: Annotated[
        bool, typer.Option("--own-classes", help="Let only outputs of the set's classes compete (ImageNet-R, -A).")
    ] = False,
    leep: Annotated[
        bool,
        typer.Option(
            "--leep", help="Measure LEEP instead: how well the outputs tell the classes of a set that it was not for."
        ),
    ] = False,
    batch: Annotated[int, typer.Option(min=1, max=4096, help="Pictures in one batch.")] = 64,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Find model, sets and which class is which output; measure nothing.")
    ] = False,
) -> None:
    """Measure a trained model: accuracy by class, and a page for each set of what it confuses.

    Classes are matched by name where model and set have names, otherwise by number.

    Example: `sixfold evaluate out/train/lam --on out/sandbox --dry-run`
    """
    with waiting("loading the program"):
        from train.evaluate.existing import open_on
        from train.evaluate.results import RESULTS
        from train.evaluate.subject import open_subject

    with waiting("looking for the model"):
        subject = open_subject(model, revision, classes)
    say(f"model: {subject.line}")
    if note := subject.shown_otherwise():
        say(note)
    folder = out or Path("out/evaluate") / subject.name
    if leep:
        _measure_leep(subject, on, subset, folder, batch, dry_run)
        return
    with waiting("looking through the sets"):
        sets, lines = open_on(subject, on, subset, "own" if own_classes else "all", folder)
    for line in lines:
        say(line)
    if dry_run:
        return
    with waiting("loading torch and timm"):
        from cluster.ranks.place import device_of, find_place
        from train.evaluate.existing import measure_on, page_name, table, write_reports

    for one in sets:
        check_file(folder / page_name(one.name))
    device = device_of(find_place({}), os.environ)
    with waiting("measuring"):
        reports = measure_on(subject, sets, batch, device, say)
    for report in reports:
        say(table(report))
    write_reports(folder, subject, reports)
    pages = ", ".join(str(folder / page_name(one.name)) for one in sets)
    say(f"results: {folder / RESULTS}; what is confused with what: {pages}")


def _measure_leep(
    subject: "Subject", on: list[str], subset: str | None, folder: Path, batch: int, dry_run: bool
) -> None:
    from train.evaluate.leep import LEEP

    with waiting("loading torch and timm"):
        from cluster.ranks.place import device_of, find_place
        from train.evaluate.leep_on import leep_on

    for source in on:
        with waiting("measuring"):
            said = leep_on(subject, source, subset, folder, batch, device_of(find_place({}), os.environ), dry_run)
        say(said)
    if not dry_run:
        say(f"results: {folder / LEEP}")


def measure(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET",
            help="A data set, tars, an image folder, a folder of Hugging Face datasets.",
        ),
    ],
    against: Annotated[
        str | None,
        typer.Option(help="A set of real pictures to compare it with.", show_default="none: variety alone"),
    ] = None,
    sources: Annotated[
        str | None,
        typer.Option(
            help="Of a set of edits: the set that they were made from. Each edit is compared with its own source.",
            show_default="none",
        ),
    ] = None,
    subset: Annotated[
        str | None, typer.Option(help="Of DATASET, such as 2x, or a split.", show_default="everything")
    ] = None,
    against_subset: Annotated[
        str | None, typer.Option(help="Of the set to compare with.", show_default="everything")
    ] = None,
    network: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help="What makes the features: a CLIP (folder, hub id, open_clip:...), DINOv2 or DINOv3 of transformers, a "
            "classifier of timm or of ours without its last layer.",
        ),
    ] = "sandbox/models/clip",
    revision: Annotated[
        str | None, typer.Option(help="Commit of a hub id, 40 hex digits.", show_default="none: a folder")
    ] = None,
    limit: Annotated[int, typer.Option(min=8, max=1_000_000, help="Pictures of a set, at most; drawn.")] = 10_000,
    draws: Annotated[int, typer.Option(min=2, max=1_000, help="Draws for an interval.")] = 10,
    neighbours: Annotated[int, typer.Option(min=1, max=100, help="For precision, recall, density, coverage.")] = 5,
    alike: Annotated[float, typer.Option(min=0, max=1, help="Cosine from which on two pictures are twins.")] = 0.95,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
    out: Annotated[Path | None, path_option("Folder of figures.json.", "nothing is written")] = None,
) -> None:
    """Measure a set of pictures: how far it is from real ones, how varied, and which are copies of test pictures.

    The Frechet distance is FID on Inception's features, and FD-DINOv2 on DINOv2's.
    Each distance is over equally many pictures of both sets, and stands beside that of the real set from itself.
    With `--sources`, how like edits are to their sources comes first: cosines (the DINO score, on DINO's features), and
    LPIPS's formula on the layers of the network, without LPIPS's own weights.

    Example: `sixfold measure out/sandbox --against out/real/real-test`
    """
    with waiting("loading torch"):
        from cluster.console import bar
        from cluster.ranks.place import device_of, find_place
        from train.evaluate.features import features_of, open_network
        from train.evaluate.measure_sets import How, compare_sets, describe_set, lines, write_figures
        from train.evaluate.pairs import with_likeness

    how = How(limit, draws, neighbours, seed, alike)
    device = str(device_of(find_place({}), os.environ))
    with waiting("loading the network"):
        loaded = open_network(network, revision, device)
    sets = []
    for source, part in ((dataset, subset), (against, against_subset)):
        if source is not None:
            with bar(f"pictures of {source}") as tell:
                sets.append(features_of(loaded, source, part, tell, warn))
    with waiting("comparing"):
        found = describe_set(loaded, sets[0], how) if len(sets) == 1 else compare_sets(loaded, sets[0], sets[1], how)
    if sources is not None:
        with bar(f"edits of {dataset}") as tell:
            found = with_likeness(found, loaded, sets[0], sources, how, tell)
    for line in lines(found):
        say(line)
    if out is not None:
        say(f"figures: {write_figures(out, found)}")

"""Arguments and output that the verbs of the command line share: lines, a progress bar, a check of an output file.

In: texts and paths. Out: lines on standard output and standard error. On disk: nothing. Imports no model library.
"""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.waiting import instead_of_waiting, waiting
from shards.disk.safe_text import for_screen, one_line

if TYPE_CHECKING:
    from pydantic import BaseModel


def local_path(text: str) -> Path:
    """The value of an argument that names a file or folder of this machine. Raises typer.BadParameter for another."""
    from shards.disk.address import file_path

    try:
        return file_path(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def path_option(help: str, show_default: str | bool = True) -> Any:
    """An option that takes a file or folder of this machine, for an `Annotated` parameter."""
    return typer.Option(parser=local_path, metavar="PATH", help=help, show_default=show_default)


def recipe_argument(metavar: str, help: str) -> Any:
    """An argument that takes a recipe, for an `Annotated` parameter; the Tab key offers files."""

    def complete(incomplete: str) -> list[str]:
        from cluster.recipes.complete import recipe_files

        return recipe_files(incomplete)

    return typer.Argument(metavar=metavar, parser=local_path, help=help, autocompletion=complete)


def overrides_of(model: "Callable[[], type[BaseModel]]") -> Any:
    """An argument that takes changes of a recipe, for an `Annotated` parameter; the Tab key offers fields of `model`,
    which is imported only then."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        from cluster.recipes.complete import override_words

        before = ctx.params.get("overrides") or [""]
        return override_words(incomplete, before[-1], model())

    return typer.Argument(
        metavar="[KEY.SUB=VALUE]...",
        help="Recipe fields to replace, values in YAML.",
        show_default="none",
        autocompletion=complete,
    )


RecipeFile = Annotated[Path, recipe_argument("RECIPE", "A YAML file; see recipes/.")]
Folder = Annotated[
    str, typer.Argument(metavar="FOLDER", help="The data set: a folder or a URL such as s3://bucket/name.")
]


def check_file(path: Path) -> None:
    """Raises ValueError before long work if the file `path` cannot be written after it."""
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


def say(text: object, err: bool = False) -> None:
    """Lines on standard output, or on standard error: all that a verb prints goes through here.

    Whatever the text quotes, a terminal shows every character of it and obeys none, and no key is shown.
    """
    typer.echo(for_screen(str(text)), err=err)


def warn(message: str) -> None:
    """One line on standard error that begins with our name."""
    say(f"sixfold: {message}", err=True)


@contextlib.contextmanager
def only_warned(what: str, remedy: str) -> Iterator[None]:
    """What a verb shows of work that is done: an error in the block is one line of warning, and the verb goes on to say
    how the work ended. `what`: of which the error is the cause; `remedy`: what helps."""
    try:
        yield
    except Exception as error:  # whatever it is, the work itself is done
        warn(f"{what} ({one_line(str(error), 300) or type(error).__name__}); {remedy}")


@contextlib.contextmanager
def bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal; elsewhere a few lines, as of every wait (`cluster.waiting`)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        counts = [0, 0]

        def count(done: int, total: int) -> None:
            counts[:] = done, total

        with waiting(lambda: f"{what}: {counts[0]:,} of {counts[1]:,}" if counts[1] else what):
            yield count
        return
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with instead_of_waiting(), Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)

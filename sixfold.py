"""The command line: one verb a stage. The verbs stand in `<package>/verbs.py`, their errors become one line here.

`sixfold VERB RECIPE|FOLDER`. A mistake is one line on stderr and exit 2; `sixfold --debug VERB …` shows the traceback.
Exit codes: 0 complete, 1 the run could not go on, 2 a mistake in what was asked, 3 incomplete or damaged (what, is
named), 75 stopped on request: run the same command again.
"""

import errno
import functools
import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel

    from cluster.recipes.mistake import RecipeError

HOME = Path(__file__).resolve().parent
PACKAGES = ("cluster", "gen", "retrieve", "shards", "train")
LONGEST = 4_000  # characters of an error; libraries quote whole files

INTERRUPTED = 130  # what typer makes of Ctrl-C
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
FULL = (errno.ENOSPC, errno.EDQUOT)  # a write to an open file names no path


def own_code_first(root: Path) -> list[Path]:
    """Let our package names resolve below `root`, also beside a user's own `train.py` that Python finds before it.

    The files and folders that are passed over. Raises ImportError if another package of such a name is imported
    already; the line says whose it is.
    """
    strangers = [path for name in PACKAGES for path in _found(name) if path.parent != root]
    if any(_homes(name) != [root] for name in PACKAGES):
        sys.path.insert(0, str(root))
    for name in PACKAGES:
        if (homes := _homes(name)) != [root]:
            owner = importlib.metadata.packages_distributions().get(name, ["a folder on PYTHONPATH"])
            raise ImportError(
                f"`{name}` comes from {', '.join(map(str, homes)) or 'nowhere'}, expected {root}; "
                f"uninstall or move {', '.join(sorted(set(owner)))}"
            )

    return strangers


def _homes(name: str) -> list[Path]:
    """The folders that hold the package or module `name`."""
    return [path.parent for path in _found(name)]


def _found(name: str) -> list[Path]:
    """The folders of the package `name`, or the file of the module."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        return []
    places = spec.submodule_search_locations or ([spec.origin] if spec.origin else [])
    return [Path(place).resolve() for place in places]


def _version(asked: bool) -> None:
    if asked:
        from cluster.code import code_hash
        from cluster.console import say

        say(f"sixfold {importlib.metadata.version('sixfold')}, code {code_hash(HOME)[:12]}")
        raise typer.Exit


def _completion(shell: str | None) -> None:
    if shell is not None:
        from cluster.completion import SCRIPTS
        from cluster.console import say

        say(SCRIPTS[shell].rstrip())
        raise typer.Exit


def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks instead of one line.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and the hash of the code.", callback=_version, is_eager=True),
    ] = False,
    completion: Annotated[
        Literal["bash", "zsh", "fish"] | None,
        typer.Option(
            "--completion",
            help='Print what makes the Tab key work: `eval "$(sixfold --completion bash)"` in ~/.bashrc.',
            callback=_completion,
            is_eager=True,
        ),
    ] = None,
) -> None:
    from cluster.console import say
    from cluster.doctor.switches import clear_unsafe_switches

    for name in clear_unsafe_switches(os.environ):
        say(f"sixfold: {name} was set and is ignored: it would switch off a safety check", err=True)


@functools.cache
def command_line() -> typer.Typer:
    """The program with all its verbs. Raises ImportError if another package has taken the name of one of ours."""
    strangers = own_code_first(HOME)
    from cluster.completion import VARIABLE
    from cluster.console import warn
    from cluster.forecast import simulate
    from cluster.verbs import cancel, doctor, drain, logs, node, submit
    from gen.verbs import edit, generate, init, meanings, plan, prompts
    from retrieve.verbs import embed, index, pool, retrieve, serve
    from retrieve.verbs import filter as filter_set
    from shards.verbs import export, push, repair, show, status, subset, verify
    from train.evaluate.verbs import evaluate, measure
    from train.verbs import invert, report, sweep, train

    for path in strangers:
        warn(f"{path} has the name of a package of sixfold and is not used; sixfold goes on with its own")
    app = typer.Typer(
        name="sixfold",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,  # it would write to files of the shell; `--completion` prints the same
        context_settings={"help_option_names": ["-h", "--help"]},
        rich_markup_mode="markdown",
        help="From a list of class names to a training set several times the size of your real one, on every GPU you "
        "have.",
    )
    app.callback()(_options)
    for verb in (
        *(init, generate, meanings, prompts, plan, edit, verify, repair, subset, show, export, push),
        *(retrieve, pool, embed, index, filter_set, serve),
        *(train, invert, evaluate, measure, sweep, report),
        *(submit, status, logs, cancel, simulate, doctor),
    ):
        app.command()(verb)
    for hidden in (node, drain):
        app.command(hidden=True)(hidden)
    if VARIABLE in os.environ:
        from typer.completion import completion_init

        completion_init()
    return app


def _recipe_of_another_verb(error: "RecipeError") -> str:
    """What the error says, or, of a recipe that fits another verb better, which verb that is."""
    from cluster.recipes.load import kind_of
    from gen.edit.recipe import EditRecipe
    from gen.run.recipe import Recipe
    from retrieve.run.recipe import RetrieveRecipe
    from train.recipe import TrainRecipe
    from train.sweep.plan import SweepSpec

    kinds: dict[str, type[BaseModel]] = {
        "generate": Recipe,
        "edit": EditRecipe,
        "retrieve": RetrieveRecipe,
        "train": TrainRecipe,
        "sweep": SweepSpec,
    }
    asked = next((verb for verb, model in kinds.items() if model is error.model), None)
    if asked is None or error.path is None:
        return str(error)
    fits = kind_of(error.path, {asked: kinds[asked], **kinds})
    if fits in (None, asked):
        return str(error)
    return (
        f"{error.path}: found a recipe of `sixfold {fits}`, expected one of `sixfold {asked}`; "
        f"run `sixfold {fits} {error.path}`"
    )


def _explain(error: Exception) -> int:
    """One line on stderr; the exit code."""
    from cluster.console import say
    from cluster.process.exit import EXIT_AGAIN, EXIT_FAILED, EXIT_MISTAKE, Draining, RunFailed

    if isinstance(error, typer.Exit):
        return error.exit_code
    if isinstance(error, typer.Abort):
        return EXIT_FAILED
    if type(error).__name__ == "NoArgsIsHelpError":  # the help was printed
        return 0
    if isinstance(error, Draining):
        say(f"sixfold: {error}; run the same command again to continue", err=True)
        return EXIT_AGAIN
    from cluster.recipes.mistake import RecipeError, in_plain_words
    from shards.disk.safe_text import clip

    message = in_plain_words(error.format_message()) if isinstance(error, typer.TyperException) else _message(error)
    parts = message.split("\n") if isinstance(error, RecipeError) else [message]  # of a recipe a line a mistake
    lines = [clip(" ".join(part.split()), LONGEST) or type(error).__name__ for part in parts]
    if type(error).__name__ in ("NoSuchOption", "MissingParameter") or message.startswith("No such command"):
        lines = [f"{lines[0].rstrip('.')}; `{error.ctx.command_path} --help` shows them"]  # type: ignore[attr-defined]
    # LeaseHeld and ClusterError are the RuntimeErrors that are written for people
    ours = type(error).__module__.startswith("cluster.")
    if ours or isinstance(error, (ValueError, OSError, ImportError, typer.TyperException)):
        for line in lines:
            say(f"sixfold: {line}", err=True)
        return error.code if isinstance(error, RunFailed) else EXIT_MISTAKE
    say(f"sixfold: {type(error).__name__}: {lines[0]}; this is a fault of ours, see `sixfold --debug …`", err=True)
    return EXIT_FAILED


def _message(error: Exception) -> str:
    """What the error says; of one of the operating system its file and our words for it."""
    from cluster.recipes.mistake import RecipeError

    if isinstance(error, RecipeError):
        return _recipe_of_another_verb(error)
    if not isinstance(error, OSError) or error.errno is None:
        return str(error)
    if error.filename is None and error.errno not in FULL:  # a client library's own words
        return str(error)
    words = EXPLAINED.get(error.errno, f"{error.strerror}; `sixfold --debug …` shows where")
    return f"{error.filename or 'the disk that was written to'}: {words}"


def main() -> None:
    """Run the command line: every error becomes one line on stderr and an exit code."""
    debug = "--debug" in sys.argv[1:]
    try:
        code = command_line()(standalone_mode=False, prog_name="sixfold")
    except Exception as error:  # the edge of the program: every error becomes one line and an exit code
        if debug:
            raise
        code = _explain(error)
    except KeyboardInterrupt:
        code = INTERRUPTED
    if code == INTERRUPTED:  # in a verb that has nothing to finish first
        from cluster.console import say
        from cluster.process.exit import EXIT_AGAIN

        say("sixfold: stopped on request; run the same command again", err=True)
        code = EXIT_AGAIN
    sys.exit(code or 0)


if __name__ == "__main__":
    main()

"""The verbs about where work runs: doctor for this machine; submit, logs and cancel for others."""

import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.console import path_option, say, warn
from cluster.recipes.mistake import RecipeError
from cluster.waiting import waiting
from shards.disk.home import home

if TYPE_CHECKING:
    from pydantic import BaseModel

    from cluster.recipes.site import SiteSpec
    from cluster.submit.call import Call, Target, Verb

Output = Annotated[str, typer.Argument(metavar="FOLDER", help="The output of what was submitted: a folder or a URL.")]
FOLLOW_S = 1.0
CHECK_S = 600.0  # for a verb's own dry run
CALIBRATE_S = 3600.0


def doctor(
    out: Annotated[str, typer.Option(help="Where a run would write: a folder or a URL.")] = "out",
) -> None:
    """Check this machine: versions, GPUs, memory, output, clock, Ray, SLURM, safety switches. Exit 3 if one is bad.

    The output's place is tried: a scratch folder or object is written there and removed.

    Example: `sixfold doctor --out out/sandbox`
    """
    with waiting("loading the program"):
        from cluster.doctor.check import Check
        from cluster.doctor.examine import examine
        from cluster.process.exit import EXIT_INCOMPLETE

    missing = Check("sandbox", "bad", "no models in sandbox/models", "make them with `make sandbox`")
    models = home() / "sandbox" / "models" / "generator" / "model_index.json"
    sandbox = Check("sandbox", "ok", "models are there") if models.is_file() else missing
    with waiting("examining this machine"):
        checks = [*examine(os.environ, out), sandbox]
    for check in checks:
        advice = f"  -> {check.advice}" if check.verdict != "ok" else ""
        say(f"{check.verdict:<5}{check.name:<18}{check.found}{advice}")
    raise typer.Exit(EXIT_INCOMPLETE if any(check.verdict == "bad" for check in checks) else 0)


def submit(
    verb: Annotated[
        str | None, typer.Argument(metavar="VERB", help="generate, edit, retrieve, train or sweep.", show_default=False)
    ] = None,
    recipe: Annotated[
        Path | None, typer.Argument(metavar="RECIPE", help="A YAML file; see recipes/.", show_default=False)
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY.SUB=VALUE]...", help="Recipe fields to replace.", show_default="none"),
    ] = None,
    to: Annotated[
        str, typer.Option(help="local, slurm, ray://HOST:PORT, job:http://HOST:8265, k8s or cloud.", show_default=True)
    ] = "slurm",
    scale: Annotated[str, typer.Option(help="Of generate and retrieve: multiple of the real set.")] = "6x",
    out: Annotated[str | None, typer.Option(help="Where it writes.", show_default="as the verb itself")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print plan, cost, files and commands; write and submit nothing.")
    ] = False,
    images_per_s: Annotated[
        float | None, typer.Option(min=1e-6, help="Of one worker, for the cost.", show_default="measured or expected")
    ] = None,
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", help="Of generate: make one shard here first and throw it away, for the cost."),
    ] = False,
    init: Annotated[
        bool, typer.Option("--init", help="Write ~/.config/sixfold/site.yaml from what SLURM says of this site.")
    ] = False,
) -> None:
    """Run a verb elsewhere: on a SLURM site, a Ray cluster, Kubernetes. The same command again continues it.

    What jobs of a site need (partition, account, GPUs, container) stands in `~/.config/sixfold/site.yaml`, which
    `--init` writes, and in `cluster.site` of a recipe. `status`, `logs` and `cancel` find a job by its output.

    Example: `sixfold submit generate recipes/sandbox.yaml --to slurm --scale 6x --out out/sandbox`
    """
    if init:
        _write_site()
        return
    from cluster.recipes.site import load_site
    from cluster.submit.call import VERBS, parse_target
    from cluster.submit.slurm_script import words_of

    if verb not in VERBS or recipe is None:
        found = "nothing" if verb is None else verb if verb not in VERBS else f"{verb} without a recipe"
        raise ValueError(f"sixfold submit: found {found}, expected one of {', '.join(VERBS)} and a recipe")
    target = parse_target(to)
    call, given = _call_of(verb, recipe, tuple(overrides or ()), scale, out)
    site = load_site(given, told=_described(dry_run) if target.kind == "slurm" else "")
    if target.kind == "ray":
        from cluster.submit.submit import over_ray

        _check_ranks(call, site, overrides or [])
        call = over_ray(call, site)
    if target.kind in ("local", "ray") and not dry_run:
        from cluster.submit.submit import run_here

        run_here(call, target)
    if target.kind == "job" and not dry_run:
        from cluster.submit.ray_job import check_server

        check_server(target.address)  # which takes a moment, and the next check a while
    if target.kind in ("slurm", "job", "k8s"):
        _check_ranks(call, site, overrides or [])
    words = words_of(call, site) if target.kind == "slurm" else call.words
    _check(call, words, dry_run, is_here=target.kind in ("local", "slurm", "ray"))
    if dry_run and verb == "generate":
        for line in _cost(call, site, overrides or [], scale, images_per_s, calibrate):
            say(line)
    if dry_run and target.kind in ("slurm", "k8s") and not site.gpus_per_node:
        warn("the job asks for no GPU: cluster.site.gpus_per_node is 0, here or in site.yaml")
    _hand_over(call, site, target, dry_run)


def logs(
    folder: Output,
    lines: Annotated[int, typer.Option(min=1, help="How many of the end.")] = 40,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the job is over.")] = False,
) -> None:
    """What the newest job of an output has printed.

    Example: `sixfold logs out/sandbox --follow`
    """
    with waiting(f"looking for the jobs of {folder}"):
        from cluster.submit.submit import job_of, printed_since, receipts_of, tails

        newest = receipts_of(folder)[-1]
    found = tails(newest, lines)
    if not found and not follow:
        say(f"no output yet of job {', '.join(newest.ids)}")
    for name, (text, _) in found.items():
        if len(found) > 1:
            say(f"== {name}")
        say(text)
    ends = {name: end for name, (_, end) in found.items()}
    while follow:
        began = time.monotonic()
        is_over = not job_of(newest).lives
        for name, (text, end) in printed_since(newest, ends).items():
            ends[name] = end
            if text:
                say(text.rstrip("\n"))
        if is_over:
            return
        time.sleep(max(FOLLOW_S, 4 * (time.monotonic() - began)))


def cancel(folder: Output) -> None:
    """End the jobs of an output that run or wait. What is finished stays; the same command again continues.

    Example: `sixfold cancel out/sandbox`
    """
    with waiting(f"looking for the jobs of {folder}"):
        from cluster.submit.submit import cancel_jobs

    if not cancel_jobs(folder, say):
        say(f"{folder}: no job runs or waits")


def node(
    how: Annotated[str, typer.Argument(metavar="HOW", help="ray, array or ranks.")],
    words: Annotated[list[str], typer.Argument(metavar="VERB ...", help="What to run, after `--`.")],
    meeting: Annotated[Path, path_option("The folder where the machines of a job meet.", False)],
    out: Annotated[str, typer.Option(help="What the verb writes.", show_default=False)],
    scratch: Annotated[Path, path_option("A folder on each machine.")] = Path("/tmp"),
) -> None:
    """One machine's part of a job; for the scripts that `sixfold submit` writes."""
    from cluster.submit.node import run_node
    from cluster.submit.submit import own_program

    if how not in ("ray", "array", "ranks"):
        raise ValueError(f"sixfold node: found {how}, expected ray, array or ranks")
    raise typer.Exit(run_node(how, meeting, scratch, out, [*own_program(), *words], os.environ))  # type: ignore[arg-type]


def _hand_over(call: "Call", site: "SiteSpec", target: "Target", dry_run: bool) -> None:
    from cluster.submit import submit as front

    if target.kind == "cloud":
        front.write_cloud(call, site, say, dry_run)
        return
    if target.kind in ("local", "ray"):
        say(f"would run: {call.line}")
        return
    if dry_run and target.kind == "slurm":
        say(front.preview_slurm(call, site))
    elif dry_run and target.kind == "job":
        say(front.preview_job(call, site, target.address))
    elif dry_run:
        say(front.preview_k8s(call, site))
    elif target.kind == "slurm":
        front.submit_slurm(call, site, say)
    elif target.kind == "job":
        front.submit_job(call, site, target.address, say)
    else:
        front.submit_k8s(call, site, say)
    if not dry_run:
        say(f"to look: sixfold status {call.out}; sixfold logs {call.out}; to end it: sixfold cancel {call.out}")


def drain(
    reason: Annotated[str, typer.Option(help="Told to Ray.")] = "the machine is to go",
    within: Annotated[float, typer.Option(min=0, help="Seconds that the machine has.")] = 60.0,
    watch: Annotated[
        str | None, typer.Option(help="aws or gcp: wait until the provider takes the machine back.", show_default=False)
    ] = None,
) -> None:
    """Tell Ray that this machine is to go, and wait until nothing runs on it; for what `sixfold submit` writes."""
    from cluster.submit.drain import NOTICE_S, drain, wait_for_notice

    if watch is not None:
        if watch not in ("aws", "gcp"):
            raise ValueError(f"--watch: found {watch}, expected aws or gcp")
        reason, within = wait_for_notice(watch), NOTICE_S[watch]  # type: ignore[arg-type]
        say(reason)
    say(drain(reason, within))


def _call_of(
    verb: "Verb", recipe: Path, overrides: tuple[str, ...], scale: str, out: str | None
) -> "tuple[Call, SiteSpec | None]":
    """The call with whole paths, and what its recipe says of the site. Raises RecipeError for a recipe that does not
    fit the verb, ValueError for an output that is no address."""
    with waiting("reading the recipe"):
        from cluster.recipes.beside import default_place, named_here
        from cluster.recipes.load import load_recipe
        from cluster.submit.call import PLACES, Call
        from shards.disk.address import one_spelling

        chosen = load_recipe(recipe, _model_of(verb), overrides, say=warn)
    name, spec = str(chosen.name), chosen.cluster  # type: ignore[attr-defined]
    place = out if out is not None else default_place(recipe, f"{PLACES[verb]}{name}")[0]
    found = recipe if recipe.exists() else home() / recipe
    scaled = ("--scale", scale) if verb in ("generate", "edit", "retrieve") else ()
    named = tuple(named_here(chosen))
    return Call(verb, found.absolute(), name, one_spelling(place), (*overrides, *scaled), named), spec.site


def _model_of(verb: str) -> "type[BaseModel]":
    if verb == "generate":
        from gen.run.recipe import Recipe

        return Recipe
    if verb == "edit":
        from gen.edit.recipe import EditRecipe

        return EditRecipe
    if verb == "retrieve":
        from retrieve.run.recipe import RetrieveRecipe

        return RetrieveRecipe
    if verb == "sweep":
        from train.sweep.plan import SweepSpec

        return SweepSpec
    from train.recipe import TrainRecipe

    return TrainRecipe


def _check(call: "Call", words: list[str], show: bool, is_here: bool) -> None:
    """What the verb itself says, before it would begin, of the words that are handed over. Raises RecipeError with the
    lines of a refusal; if the work is done on machines that see other files, these are told and decide nothing.

    A retrieval's own dry run would search the whole pool, so it is left to the job.
    """
    from cluster.submit.submit import own_program

    if call.verb == "retrieve":
        return
    with waiting("checking what the recipe names"):
        done = _ran([*own_program(), *words, "--dry-run"], CHECK_S)
    if done is None:
        raise ValueError(
            f"`{call.line} --dry-run`: not done within {CHECK_S / 60:.0f} minutes, expected the plan; run it by itself "
            "to see what it waits for, or submit on a machine with more cores and memory"
        )
    if done.returncode:
        lines = [line.removeprefix("sixfold: ") for line in done.stderr.splitlines() if line.startswith("sixfold: ")]
        lines = lines or [f"`{call.line} --dry-run` ended with exit code {done.returncode}"]
        if is_here:
            raise RecipeError.of(lines)
        for line in lines:
            warn(f"on this machine: {line}")
        return
    if show and call.verb != "train":  # which prints the whole recipe
        say(done.stdout.rstrip())


def _check_ranks(call: "Call", site: "SiteSpec", overrides: list[str]) -> None:
    """Raises ValueError for a training that the processes of the job could not share."""
    from cluster.recipes.load import load_recipe
    from cluster.submit.submit import ranks_of
    from train.recipe import TrainRecipe, check_ranks

    if call.verb != "train":
        return
    ranks, chosen = ranks_of(call, site), load_recipe(call.recipe, TrainRecipe, overrides)
    for name, one in {**chosen.earlier, "": chosen}.items():
        try:
            check_ranks(one, ranks)
        except ValueError as error:
            raise ValueError(
                f"{f'before.{name}: ' if name else ''}{error}; the job has {ranks}, cluster.site.nodes x gpus_per_node"
            ) from None


def _cost(
    call: "Call", site: "SiteSpec", overrides: list[str], scale: str, images_per_s: float | None, calibrate: bool
) -> list[str]:
    """What the images would cost there, at the rate that is told, measured here, known from the output, or expected."""
    from cluster.recipes.load import load_recipe
    from cluster.submit.cost import Rate, cost_lines
    from gen.make.plan import parse_scale
    from gen.run.recipe import Recipe, sizes_of
    from shards.labels.classes import load_classes
    from shards.set.status import pace_of_place

    chosen = load_recipe(call.recipe, Recipe, overrides)
    rate = None
    if images_per_s is not None:
        rate = Rate(images_per_s, "as you say")
    elif (pace := pace_of_place(call.out)) is not None:
        rate = Rate(pace.images_per_s / max(pace.at_a_time, 1e-9), f"measured in {call.out}")
    elif chosen.expect is not None:
        rate = Rate(chosen.expect.images_per_s, "as the recipe expects")
    plan = sizes_of(chosen, load_classes(chosen.classes))
    if calibrate and images_per_s is None:
        share = plan.unit_size(0) / plan.fold_size
        rate = Rate(_measured(call.recipe, overrides, f"{share:.9f}x"), "measured with one shard on this machine")
    return cost_lines(plan.num_samples(parse_scale(scale)), rate, site)


def _measured(recipe: Path, overrides: list[str], scale: str) -> float:
    """Images a second of one worker here, from one shard that is thrown away. Raises ValueError if it is not made."""
    from cluster.submit.submit import own_program
    from shards.set.status import pace_of_place

    with tempfile.TemporaryDirectory() as folder, waiting("making one shard, to know the rate"):
        words = [*own_program(), "generate", str(recipe), *overrides, "cluster.in_process=true", "--no-gallery"]
        words += ["--scale", scale, "--out", folder]
        done = _ran(words, CALIBRATE_S)
        pace = pace_of_place(folder) if done is not None else None
    if done is None:
        raise ValueError(
            f"--calibrate: made no shard here within {CALIBRATE_S / 60:.0f} minutes; run it on a machine with a GPU, "
            "or give --images-per-s instead"
        )
    if pace is None:
        told = [line for line in done.stderr.splitlines() if line.startswith("sixfold: ")]
        raise ValueError(f"--calibrate: made no shard here ({(told or ['no reason was given'])[-1]}); leave it out")
    return pace.images_per_s


def _ran(words: list[str], within_s: float) -> "subprocess.CompletedProcess[str] | None":
    """The program with what it said; None if it was not done in time, and is ended."""
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=within_s, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return None


def _described(dry_run: bool) -> str:
    """What SLURM says of a site that nobody has described yet, written down unless it is a dry run; "" if a file is
    there, or if SLURM says nothing: then each setting is the usual one."""
    from cluster.recipes.site import site_file
    from cluster.submit.slurm import describe_site
    from cluster.submit.state import JobError
    from shards.disk.replace import replace_file

    path = site_file()
    if path.exists():
        return ""
    try:
        text = describe_site()
    except JobError as error:
        warn(
            f"{path}: found no description of this site, and SLURM gives none ({error}); takes the usual settings; "
            f"{_by_hand(path)}"
        )
        return ""
    if dry_run:
        warn(f"{path}: would be written from what SLURM says of this site; it is taken here")
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, text.encode())
        warn(f"{path}: written from what SLURM says of this site; look through it")
    return text


def _by_hand(path: Path) -> str:
    """What to do where SLURM says nothing of a site."""
    return (
        f"run `sixfold submit --init` on a login node, or write {path} by hand: a line each for partition, account, "
        "nodes, gpus_per_node, cpus_per_node and time (docs/cluster.md)"
    )


def _write_site() -> None:
    from cluster.recipes.site import site_file
    from cluster.submit.slurm import describe_site
    from cluster.submit.state import JobError
    from shards.disk.replace import replace_file

    path = site_file()
    if path.exists():
        raise ValueError(f"{path}: found a file, expected none yet; change it by hand, or move it away")
    try:
        text = describe_site()
    except JobError as error:
        raise JobError(f"{error}; {_by_hand(path)}") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, text.encode())
    say(text.rstrip())
    say(f"written to {path}; look through it")

"""The verb about a cluster that one might have: simulate."""

import functools
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.console import bar, say, warn
from cluster.waiting import waiting

if TYPE_CHECKING:
    from shards.set.rates import Rates

SIXFOLD_S = 120.0  # `simulate` assumes it for a start where nobody knows


def simulate(
    gpus: Annotated[int, typer.Option(help="GPUs that work, a worker each.")],
    images: Annotated[str, typer.Option(help="Images to make: 300k, 7.7M, 1B.")],
    rates: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="FOLDER",
            help="A data set that was made: images/s, their spread, bytes an image and images a shard are taken from "
            "its records, the start from its summary. What is given beside it counts more.",
            show_default="none",
        ),
    ] = None,
    images_per_s: Annotated[float | None, typer.Option(help="Of one GPU.", show_default="6")] = None,
    unit: Annotated[int | None, typer.Option(help="Images of a shard, at most 10,000.", show_default="1000")] = None,
    unit_s: Annotated[float, typer.Option(help="Seconds of a shard beside its images: prompts, commit.")] = 1.0,
    gpus_per_node: Annotated[int, typer.Option(help="They vanish and come back together.")] = 8,
    start_s: Annotated[
        float | None, typer.Option(help="Seconds to start a worker, its model apart.", show_default="120")
    ] = None,
    compile_s: Annotated[float, typer.Option(help="Seconds it compiles before its first unit.")] = 0.0,
    model: Annotated[str, typer.Option(help="Size of the model, which each worker reads: 5GB.")] = "0",
    image: Annotated[str | None, typer.Option(help="Size of an image in its shard: 35kB.", show_default="35kB")] = None,
    storage: Annotated[
        str | None, typer.Option(help="What all workers can read and write together: 5GB/s.", show_default="no limit")
    ] = None,
    link: Annotated[str, typer.Option(help="The most that one worker can: 1GB/s.")] = "1GB/s",
    spread: Annotated[
        float | None, typer.Option(help="Standard deviation of the GPUs' speeds, as a share.", show_default="0.05")
    ] = None,
    slow: Annotated[
        float | None, typer.Option(help="Share of the GPUs that have half the speed.", show_default="0.05")
    ] = None,
    stragglers: Annotated[float, typer.Option(help="Share of the tries that take 20 times as long.")] = 0.001,
    mtbf_hours: Annotated[float, typer.Option(help="Of one GPU, from a failure to the next; 0: none fails.")] = 50_000,
    preempt_hours: Annotated[
        float, typer.Option(help="Of one node, from the end of its loan to that of the next; 0: none is taken away.")
    ] = 0,
    away_minutes: Annotated[float, typer.Option(help="Until a node that was taken away is back.")] = 30,
    limit_hours: Annotated[float, typer.Option(help="Time limit of an allocation of all GPUs; 0: none.")] = 0,
    queue_hours: Annotated[float, typer.Option(help="Until the next allocation begins.")] = 0,
    seed: Annotated[int, typer.Option(help="Of speeds and faults; the same seed gives the same run.")] = 0,
    worlds: Annotated[
        int, typer.Option(min=1, max=100, help="Simulate so many, each with a seed of its own; the median is told.")
    ] = 3,
    other_units: Annotated[bool, typer.Option(help="Compare other unit sizes too.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON.")] = False,
) -> None:
    """What a run would take on many GPUs: makespan, GPU-hours, work lost, load on storage and driver, best unit.

    The schedule is the real one, in simulated time; docs/SCALING.md says how near it comes to real runs. Exit 3 if the
    run would not come to its end.

    Example: `sixfold simulate --gpus 64 --images 7.7M --images-per-s 6 --unit 1000 --storage 5GB/s`
    """
    with waiting("loading the program"):
        from dataclasses import replace

        from cluster.process.exit import EXIT_INCOMPLETE
        from cluster.submit import simulate as planning
        from shards.disk.amounts import parse_count, parse_size

        known = _rates_of(rates)
    given: dict[str, Any] = {
        "images_per_s": images_per_s,
        "unit": unit,
        "start_s": start_s,
        "image_bytes": None if image is None else parse_size(image),
        "spread": spread,
        "slow": slow,
    }
    chosen = {**known, **{name: value for name, value in given.items() if value is not None}}
    chosen["start_s"] = chosen.get("start_s", SIXFOLD_S) + compile_s
    setting = planning.Setting(
        gpus=gpus,
        images=parse_count(images),
        unit_s=unit_s,
        gpus_per_node=gpus_per_node,
        model_bytes=0.0 if model == "0" else parse_size(model),
        storage_bytes_per_s=0.0 if storage is None else _per_second(storage),
        link_bytes_per_s=_per_second(link),
        stragglers=stragglers,
        mtbf_h=mtbf_hours,
        preempt_h=preempt_hours,
        away_min=away_minutes,
        limit_h=limit_hours,
        queue_h=queue_hours,
        seed=seed,
        **chosen,
    )
    settings = [setting]
    if other_units:
        settings += [replace(setting, unit=size) for size in planning.other_units(setting)]
    total, forecasts = worlds * sum(one.num_units for one in settings), []
    with bar("simulating units") as advance:
        for number, one in enumerate(settings):
            before = worlds * sum(other.num_units for other in settings[:number])
            forecasts.append(planning.foresee(one, worlds, functools.partial(_tell, advance, before, total)))
    if as_json:
        best = planning.best(forecasts).setting.unit if other_units else None
        say(json.dumps({**forecasts[0].as_json(), "best_unit": best}, indent=1))
    else:
        say(planning.describe(forecasts[0], forecasts[1:]))
    raise typer.Exit(EXIT_INCOMPLETE if forecasts[0].run.summary.exit_code else 0)


def _tell(advance: Callable[[int, int], None], before: int, total: int, done: int) -> None:
    advance(before + done, total)


def _per_second(text: str) -> float:
    from shards.disk.amounts import parse_size

    return parse_size(text.removesuffix("/s"))


def _rates_of(folder: str | None) -> dict[str, Any]:
    """What a data set says of the next run. Raises ValueError if it says too little."""
    if folder is None:
        return {}
    from shards.disk.data_set import open_data_set
    from shards.set.manifest import scan_records
    from shards.set.rates import MIN_SHARDS, rates_of
    from shards.set.status import read_summary

    store = open_data_set(folder)
    found: Rates | None = rates_of(scan_records(store).values())
    if found is None:
        raise ValueError(
            f"{folder}: found fewer than {MIN_SHARDS} shards with images, expected enough to tell how fast they were "
            "made; give --images-per-s instead"
        )
    known: dict[str, Any] = {
        "images_per_s": found.images_per_s,
        "unit": found.images_per_shard,
        "image_bytes": found.image_bytes,
        "spread": min(found.spread, 0.5),
        "slow": found.slow,
    }
    last = read_summary(store)
    if last is not None and last.start_s is not None:
        known["start_s"] = last.start_s
    warn(f"{folder}: {found.images_per_s:.3g} images/s of a worker, by {found.shards:,} shards")
    return known

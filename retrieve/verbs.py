"""The verbs of the retrieval baseline: pool, embed."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.console import local_path, overrides_of, path_option, say, warn
from cluster.waiting import waiting

if TYPE_CHECKING:
    from retrieve.embed.spec import EmbedSpec
    from retrieve.pool.spec import PoolSpec


def _embed_model() -> "type[EmbedSpec]":
    from retrieve.embed.spec import EmbedSpec

    return EmbedSpec


def _pool_model() -> "type[PoolSpec]":
    from retrieve.pool.spec import PoolSpec

    return PoolSpec


PoolFolder = Annotated[
    Path,
    typer.Argument(metavar="POOL", parser=local_path, help="A folder of captions (*.parquet), with *.tar if it has."),
]


def pool(
    folder: PoolFolder,
    overrides: Annotated[list[str] | None, overrides_of(_pool_model)] = None,
) -> None:
    """Tell what a pool has, what it lacks, and which command makes that.

    Example: `sixfold pool out/pool unsafe_above=0.3`
    """
    with waiting("reading the tables of the pool"):
        from cluster.recipes.load import parse_recipe
        from retrieve.pool.describe import describe
        from retrieve.pool.spec import PoolSpec

        given = json.dumps({"source": str(folder)}).encode()
        described = describe(parse_recipe(given, PoolSpec, "sixfold pool", overrides or []))
    say(described)


def embed(
    folder: PoolFolder,
    clip: Annotated[
        str, typer.Option("--clip", metavar="MODEL", help="The CLIP: a folder or hub id, `open_clip:` before it.")
    ],
    overrides: Annotated[list[str] | None, overrides_of(_embed_model)] = None,
    revision: Annotated[str | None, typer.Option(help="Of a hub id: its commit, 40 hex digits.")] = None,
    out: Annotated[
        Path | None, path_option("The folder to write; elsewhere it gets the rows, too.", show_default="the pool's own")
    ] = None,
    texts: Annotated[
        bool | None,
        typer.Option("--texts/--images", help="Only captions, or only pictures.", show_default="what the pool has"),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print units, rows, bytes and what is there; touch nothing.")
    ] = False,
    in_process: Annotated[bool, typer.Option("--in-process", help="One worker in this process, without Ray.")] = False,
) -> None:
    """Make the vectors of a pool's pictures and captions, on every GPU (or core) there is. Run it again to continue.

    Rows that are flagged or blocked, and pictures that cannot be decoded, get zeros; the records name them.

    Example: `sixfold embed out/pool --clip sandbox/models/clip pool.clip.batch=128`
    """
    with waiting("loading the program"):
        from cluster.process.slurm import idle_parts
        from cluster.process.stop_flag import StopFlag
        from cluster.recipes.load import parse_recipe
        from retrieve.embed.run import modalities_of, plan, run
        from retrieve.embed.spec import EmbedSpec
        from retrieve.pool.pool import open_pool

    data = {"pool": {"source": str(folder), "clip": {"model": clip, "revision": revision}}}
    changed = [*(overrides or []), *(["cluster.in_process=true"] if in_process else [])]
    spec = parse_recipe(json.dumps(data).encode(), EmbedSpec, "sixfold embed", changed)
    if texts is not None:
        spec = spec.model_copy(update={"modalities": ("text",) if texts else ("image",)})
    elif "modalities" not in spec.model_fields_set:
        has = modalities_of(open_pool(spec.pool, with_vectors=False))
        spec = spec.model_copy(update={"modalities": has})
        if "image" not in has:
            warn(f"{folder}: found no pictures by key, so only captions are embedded")
    with waiting("reading what is there"):
        planned = plan(spec, out)
        described = planned.describe()
    say(described)
    if dry_run:
        return
    for line in idle_parts(os.environ, spec.cluster.gpus_used):
        warn(line)
    with StopFlag() as stop:
        outcome = run(planned, stop)
    say(outcome.sentence())
    raise typer.Exit(outcome.exit_code)

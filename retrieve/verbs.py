"""The verbs of the retrieval baseline: retrieve, pool, embed, index, filter, serve."""

import contextlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cluster.console import Folder, RecipeFile, check_file, local_path, overrides_of, path_option, say, warn
from cluster.recipes.beside import default_place
from cluster.recipes.load import load_recipe
from cluster.waiting import waiting
from gen.verbs import Gallery, InProcess, Out, Scale, SingleWriter
from shards.disk.home import home

if TYPE_CHECKING:
    from retrieve.embed.spec import EmbedSpec
    from retrieve.index.spec import IndexSpec
    from retrieve.pool.spec import PoolSpec
    from retrieve.run.recipe import RetrieveRecipe


def _embed_model() -> "type[EmbedSpec]":
    from retrieve.embed.spec import EmbedSpec

    return EmbedSpec


def _index_model() -> "type[IndexSpec]":
    from retrieve.index.spec import IndexSpec

    return IndexSpec


def _pool_model() -> "type[PoolSpec]":
    from retrieve.pool.spec import PoolSpec

    return PoolSpec


def _retrieve_model() -> "type[RetrieveRecipe]":
    from retrieve.run.recipe import RetrieveRecipe

    return RetrieveRecipe


PoolFolder = Annotated[
    Path,
    typer.Argument(metavar="POOL", parser=local_path, help="A folder of captions (*.parquet), with *.tar if it has."),
]


def _of_pool(overrides: list[str] | None) -> list[str]:
    """Of fields that are named as a recipe, `embed` and `index` name them: without `pool.`."""
    return [word.removeprefix("pool.") for word in overrides or []]


def retrieve(
    recipe: RecipeFile,
    overrides: Annotated[list[str] | None, overrides_of(_retrieve_model)] = None,
    scale: Scale = "6x",
    out: Out = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Search, print what was found and left out; write nothing.")
    ] = False,
    in_process: InProcess = False,
    gallery: Gallery = True,
    single_writer: SingleWriter = False,
) -> None:
    """Retrieve real images of the classes from a pool: the baseline of synthetic ones. Run it again to continue.

    Example: `sixfold retrieve recipes/sandbox-retrieve.yaml --scale 6x`
    """
    with waiting("loading the program"):
        from cluster.process.slurm import idle_parts
        from cluster.process.stop_flag import StopFlag
        from gen.make.plan import parse_scale
        from retrieve.run.recipe import RetrieveRecipe
        from retrieve.run.run import look, run
        from shards.disk.address import one_spelling

    changed = [*(overrides or []), *(["cluster.in_process=true"] if in_process else [])]
    chosen = load_recipe(recipe, RetrieveRecipe, changed, say=warn)
    asked = parse_scale(scale)
    place, note = (out, None) if out is not None else default_place(recipe, f"out/{chosen.name}")
    if note is not None:
        warn(note)
    if dry_run:
        with StopFlag() as stop:
            say(look(chosen, asked, stop, warn))
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


def pool(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="[POOL]", parser=local_path, help="A folder of captions (*.parquet), with *.tar if it has."
        ),
    ] = None,
    overrides: Annotated[list[str] | None, overrides_of(_pool_model)] = None,
    rows: Annotated[
        float | None, typer.Option(metavar="N", help="Plan a pool of so many rows, such as 2.3e9, instead.")
    ] = None,
    dim: Annotated[int, typer.Option(help="With --rows: numbers of a vector.")] = 768,
    queries: Annotated[int, typer.Option(help="With --rows: classes times templates.")] = 1000,
    cores: Annotated[int, typer.Option(help="With --rows: of all machines together.")] = 16,
    gpus: Annotated[int, typer.Option(help="With --rows: of all machines together.")] = 8,
    memory_gb: Annotated[float, typer.Option("--memory-gb", help="With --rows: for an index.")] = 128.0,
    tables: Annotated[
        bool,
        typer.Option("--write-tables", help="Of tars without tables: write them, from the .txt and .json in the tars."),
    ] = False,
) -> None:
    """Tell what a pool has, what it lacks, and which command makes that; or what a pool of --rows would cost.

    Fields are those of `pool` in a recipe, with or without that word before them.

    Example: `sixfold pool out/pool pool.unsafe_above=0.3`, `sixfold pool --rows 2.3e9 --queries 80000`
    """
    if (folder is None) == (rows is None):
        found = "neither POOL nor --rows" if folder is None else "both POOL and --rows"
        raise ValueError(f"found {found}, expected one of them")
    if tables and folder is None:
        raise ValueError("found --write-tables with --rows, expected it with POOL")
    if tables and folder is not None:
        with waiting("reading the tars of the pool"):
            from retrieve.pool.tables import write_tables
            from shards.disk.amounts import counted

            done = write_tables(folder)
        empty = f"; {done.without_caption:,} have no caption" if done.without_caption else ""
        say(f"{folder}: {counted(done.tables, 'table')} written, {counted(done.rows, 'row')}{empty}")
    if rows is not None:
        from retrieve.run.plan import PoolSize

        say(PoolSize(int(rows), dim, queries, cores, gpus, memory_gb * 1e9).describe())
        return
    with waiting("reading the tables of the pool"):
        from cluster.recipes.load import parse_recipe
        from retrieve.pool.describe import describe
        from retrieve.pool.spec import PoolSpec

        given = json.dumps({"source": str(folder)}).encode()
        described = describe(parse_recipe(given, PoolSpec, "sixfold pool", _of_pool(overrides)))
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
    in_process: InProcess = False,
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


def index(
    folder: PoolFolder,
    overrides: Annotated[list[str] | None, overrides_of(_index_model)] = None,
    modality: Annotated[
        Literal["image", "text"], typer.Option(help="Of which vectors: of pictures, or of captions.")
    ] = "image",
    memory: Annotated[
        str, typer.Option(metavar="SIZE", help="The most that the index may weigh, such as 4GB.")
    ] = "4GB",
    purpose: Annotated[
        Literal["auto", "exact", "speed"],
        typer.Option(help="exact; speed: a graph; auto: recall .95 in little memory."),
    ] = "auto",
    factory: Annotated[
        str | None, typer.Option(metavar="WORDS", help="FAISS' factory string.", show_default="chosen")
    ] = None,
    recall: Annotated[float, typer.Option(help="recall@10 that searches shall have, against the exact scan.")] = 0.95,
    out: Annotated[Path | None, path_option("The folder to write.", show_default="index/ beside the vectors")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Build in the place of another index.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be built and why, its bytes and minutes; touch nothing.")
    ] = False,
    in_process: InProcess = False,
) -> None:
    """Build an index of a pool's vectors, for searches that do not read all of them. Run it again to continue.

    The index is a file of FAISS as clip-retrieval reads it, whose ids are the rows of the pool; its record says what it
    finds. Rows without a vector are not in it.

    Example: `sixfold index out/pool --memory 2GB --dry-run`
    """
    with waiting("loading the program"):
        from cluster.process.stop_flag import StopFlag
        from cluster.recipes.load import parse_recipe
        from retrieve.index.build import plan, run
        from retrieve.index.spec import IndexSpec
        from shards.disk.amounts import parse_size

    data = {
        "pool": {"source": str(folder)},
        "modality": modality,
        "memory_gb": parse_size(memory) / 1e9,
        "purpose": purpose,
        "factory": factory,
        "recall": recall,
    }
    changed = [*(overrides or []), *(["cluster.in_process=true"] if in_process else [])]
    spec = parse_recipe(json.dumps(data).encode(), IndexSpec, "sixfold index", changed)
    with waiting("reading what is there"):
        planned = plan(spec, out, replace)
        described = planned.describe()
    say(described)
    if dry_run:
        return
    with StopFlag() as stop:
        outcome = run(planned, stop, warn)
    say(outcome.sentence())
    raise typer.Exit(outcome.exit_code)


def filter(
    folder: Folder,
    clip: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="The CLIP that scores: a folder or hub id, `open_clip:` before it."),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Of a hub id: its commit, 40 hex digits.")] = None,
    top: Annotated[
        float | None, typer.Option(help="Share of each class that stays, its best scores: 0.3, or 30 for per cent.")
    ] = None,
    score: Annotated[
        float | None, typer.Option(help="Lowest score that stays, of all classes.", show_default="0.2 with --clip")
    ] = None,
    scores: Annotated[
        Path | None,
        path_option("YAML of lines `name or id: lowest score`; other classes have --score.", show_default="none"),
    ] = None,
    cap: Annotated[int | None, typer.Option(help="Samples of a class at most, the best of them.")] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(metavar="TESTSET", help="A test set whose pictures must not be among the samples; repeatable."),
    ] = None,
    descriptor: Annotated[
        Literal["picture", "clip"],
        typer.Option(help="What tells that two pictures are the same: the picture without its light, or the CLIP."),
    ] = "picture",
    test_above: Annotated[
        float | None,
        typer.Option(help="Likeness to a test image above which a sample goes.", show_default="that of the descriptor"),
    ] = None,
    near: Annotated[
        float | None,
        typer.Option(
            help="Likeness above which samples are near-duplicates, one of which stays: 0.76; 0.94 of a CLIP."
        ),
    ] = None,
    templates: Annotated[
        Path | None, path_option("Texts with `{name}`, one a line.", show_default="a photo of {name}.")
    ] = None,
    unit_texts: Annotated[
        bool, typer.Option("--unit-texts", help="Normalise each text before the mean, as a zero-shot classifier does.")
    ] = False,
    name: Annotated[str, typer.Option(help="What the subset shall be called.")] = "filtered",
    ids: Annotated[Path | None, path_option("Also write the keys that stay, one a line.", show_default="none")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would stay; write nothing there.")] = False,
) -> None:
    """Choose the samples whose picture fits its class, is no copy of a test image and is there once.

    The choice is a subset to train on, no shard is changed. _meta/filters holds the scores and the reasons of all.

    Example: `sixfold filter out/sandbox --clip sandbox/models/clip --top 0.3 --cap 10000 --against out/real/real-test`
    """
    with waiting("loading the program"):
        from cluster.process.writers import written_by_one
        from gen.model.clip import ClipSpec
        from retrieve.filter.filter import FilterSpec, filter_data_set
        from retrieve.filter.report import describe, read_scores, read_templates, write_ids
        from retrieve.filter.rule import LOWEST, Rule
        from retrieve.filter.score import TEMPLATES
        from shards.disk.data_set import open_data_set

    if top is not None and (score is not None or scores is not None):
        raise ValueError("found --top and a lowest score, of which the share is the stronger, expected one of them")
    if revision is not None and clip is None:
        raise ValueError("found --revision without --clip, expected both")
    if ids is not None:
        check_file(ids)
    there = open_data_set(folder)  # refuses another folder before anything is written there
    rule = Rule(
        top=top,
        by_class={} if scores is None else read_scores(scores, there),
        lowest=LOWEST if score is None and top is None and clip is not None else score,
        cap=cap,
        test_above=test_above,
    )
    spec = FilterSpec(
        rule=rule,
        clip=None if clip is None else ClipSpec(model=clip, revision=revision),
        templates=TEMPLATES if templates is None else read_templates(templates),
        unit_texts=unit_texts,
        against=tuple(against or ()),
        descriptor=descriptor,
        near=near,
    )
    doing = ["reading the tables"]

    def progress(what: str, done: int, total: int) -> None:
        doing[:] = [f"{what}: {done:,} of {total:,}" if done < total else f"{what}: comparing"]

    with contextlib.ExitStack() as held:
        store = there if dry_run else held.enter_context(written_by_one(folder, "filter", warn))
        held.enter_context(waiting(lambda: doing[0]))
        found = filter_data_set(store, name, spec, warn, progress, write=not dry_run)
    say(describe(found, name, dry_run))
    if ids is not None:
        write_ids(ids, found.table)


def serve(
    folder: PoolFolder,
    clip: Annotated[
        str,
        typer.Option(
            "--clip",
            metavar="MODEL",
            help="The CLIP that made the vectors: a folder or hub id, `open_clip:` before it.",
        ),
    ],
    overrides: Annotated[list[str] | None, overrides_of(_pool_model)] = None,
    revision: Annotated[str | None, typer.Option(help="Of a hub id: its commit, 40 hex digits.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Where it listens; 0: any free port.")] = 1234,
    host: Annotated[
        str,
        typer.Option(help="An address of this machine; one that others reach needs SIXFOLD_SERVE_TOKEN."),
    ] = "127.0.0.1",
    index_folder: Annotated[
        str,
        typer.Option(
            "--index",
            metavar="auto|none|FOLDER",
            help="auto: the index beside the vectors, if `sixfold index` wrote one; none: all vectors are scanned.",
        ),
    ] = "auto",
    block_list: Annotated[
        Path | None,
        path_option("The list in which the page puts what is ticked as bad; new, or as `block` has it.", "none"),
    ] = None,
) -> None:
    """Search a pool in the browser, and by clip-retrieval's ClipClient. Ctrl-C ends it.

    Flagged and blocked rows are never shown. Set SIXFOLD_SERVE_TOKEN to ask everyone for a token.

    Example: `sixfold serve out/pool --clip sandbox/models/clip --block-list out/blocked.txt`
    """
    with waiting("loading the program"):
        from cluster.process.stop_flag import StopFlag
        from cluster.recipes.load import parse_recipe
        from retrieve.pool.spec import PoolSpec
        from retrieve.serve.metrics import Metrics
        from retrieve.serve.route import Named
        from retrieve.serve.run import bind, serving, token_of, wait_for_stop
        from retrieve.serve.search import Search
        from shards.disk.amounts import counted

    token = token_of(os.environ)
    data = json.dumps({"source": str(folder), "clip": {"model": clip, "revision": revision}}).encode()
    spec = parse_recipe(data, PoolSpec, "sixfold serve", _of_pool(overrides))
    if block_list is not None:
        check_file(block_list)
    place = bind(host, port, token)  # before the model is loaded
    metrics = Metrics()
    with waiting(f"opening {folder}"):
        named: Named = (
            "auto" if index_folder == "auto" else "none" if index_folder == "none" else local_path(index_folder)
        )
        search = Search.open(spec, block_list, metrics, named)
    with StopFlag() as stop, serving(search, metrics, place, token, warn) as server:
        say(
            f"pool      {search.name}, {counted(search.num_rows, 'row')}, {search.num_kept:,} of them may leave; "
            f"{' and '.join(search.modalities)} vectors\n"
            f"search    {'; '.join(f'{one} by {how}' for one, how in search.routes.items())}\n"
            f"page      {place.address}\n"
            f'client    ClipClient(url="{place.address}knn-service", indice_name="{search.name}")\n'
            f"access    {'only with the token' if token else 'without a token, from this machine'}; Ctrl-C ends it"
        )
        wait_for_stop(server, stop)
    if not stop.requested:
        raise RuntimeError("the server ended by itself; the lines above say why")
    say(f"stopped ({stop.reason})")

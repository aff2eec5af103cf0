"""The verbs of a data set that is there: verify, repair, subset, show, export, push, status.

Long because each verb's options, with their help, stand beside what it does.
"""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cluster.console import Folder, bar, path_option, say, warn
from cluster.waiting import waiting

if TYPE_CHECKING:
    from shards.disk.store import Store

MAX_LISTED = 40  # files that a dry run names
REGENERATE_TOLERANCE = 2.0  # mean difference of pixel values, of 255; GPUs and other CPUs round differently


def verify(
    folder: Folder,
    regenerate: Annotated[int, typer.Option(min=0, help="Make this many images again and compare.")] = 0,
    seed: Annotated[int, typer.Option(help="Which images --regenerate draws.")] = 0,
) -> None:
    """Read every byte, compare with hashes and tables, name every damage.

    Exit 3 if there is any, or if a run at work has not made all shards yet. Images made again must have the same bytes
    on the kind of CPU that made them; elsewhere they may differ a little.

    Example: `sixfold verify out/sandbox --regenerate 20`
    """
    with waiting("loading the program"):
        from cluster.process.exit import EXIT_INCOMPLETE
        from cluster.process.writers import told_writers, writers_of
        from shards.disk.amounts import counted, size_text
        from shards.disk.data_set import is_data_set, no_data_set
        from shards.disk.safe_text import visible
        from shards.disk.store import open_for_reading
        from shards.set.status import asked_units, shard_names
        from shards.set.verify import verify as verify_all

    store = open_for_reading(folder)
    writer = told_writers(writers_of(store))  # before the look at the shards: what it makes since then is only more
    if writer is None and not is_data_set(store):
        raise no_data_set(store)
    with bar("verify") as advance:
        report = verify_all(store, advance, expected=asked_units(store), is_running=writer is not None)
    if not report.shards and not report.damages and writer is None:
        raise no_data_set(store)
    for damage in report.damages:
        say(visible(str(damage)))
    for note in report.notes:
        say(f"note: {visible(note)}")
    kinds = {damage.kind for damage in report.damages}
    steps = ["run the command that makes the set again"] if kinds - {"stray"} else []
    if report.damaged_shards() or report.damaged_files():
        steps = [f"`sixfold repair {folder}`"]
    if "stray" in kinds:
        steps.append("move away what does not belong beside the shards")
    advice = ", then ".join(steps)
    if writer is not None:
        advice += " when the run has ended"
        of = f"{len(report.unmade):,} of {counted(report.shards + len(report.unmade), 'shard')}"
        state = "all its shards are made" if report.shards else "nothing is made yet"
        state = f"not made yet are {of}{shard_names(report.unmade)}" if report.unmade else state
        say(visible(f"a run is going on here ({writer}): {state}"))
    say(
        f"{counted(report.shards, 'shard')}, {counted(report.samples, 'sample')}, {counted(report.rows, 'row')}, "
        f"{size_text(report.bytes)}: "
        + (f"{counted(len(report.damages), 'damage')}; {advice}" if report.damages else "no damage")
    )
    if report.damages or report.unmade or not report.shards:
        raise typer.Exit(EXIT_INCOMPLETE)
    if regenerate:
        with waiting(f"making {counted(regenerate, 'image')} again"):
            from gen.edit.remake import regenerate_any

            compared = regenerate_any(store, regenerate, seed)
        others = [one for one in compared if not one.same_bytes]
        for one in others:
            say(f"{one.key}: made again it differs by {one.mean_difference:.3f} of 255 in the mean")
        same = len(compared) - len(others)
        say(f"{counted(len(compared), 'image')} made again: {same:,} with the same bytes")
        wrong = [one for one in others if one.is_exact or one.mean_difference > REGENERATE_TOLERANCE]
        if any(one.is_exact for one in wrong):
            say("expected the same bytes, for this kind of CPU made them; other code or libraries are at work here")
        elif others:
            say(
                "no CPU of this kind made those, as far as their records say, so up to "
                f"{REGENERATE_TOLERANCE:g} of 255 is no fault: {counted(len(wrong), 'image')} beyond that"
            )
        if wrong:
            raise typer.Exit(EXIT_INCOMPLETE)


def repair(
    folder: Folder,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be moved; move nothing.")] = False,
) -> None:
    """Move what is damaged to _meta/quarantine, so that the same `generate` makes exactly that again.

    A table is written again where its tar alone says all that it said: there were no rejected draws.

    Example: `sixfold repair out/sandbox --dry-run`
    """
    with waiting("loading the program"):
        from cluster.process.writers import written_by_one
        from shards.disk.amounts import counted
        from shards.disk.data_set import open_data_set
        from shards.set.rebuild import rebuild_tables
        from shards.set.repair import repair as repair_all
        from shards.set.repair import repair_meta, tables_alone
        from shards.set.verify import verify as verify_all

    there = open_data_set(folder)
    with contextlib.ExitStack() as held:
        store = there if dry_run else held.enter_context(written_by_one(folder, "repair", warn))
        with bar("verify") as advance:
            report = verify_all(store, advance)
            rebuilt = rebuild_tables(store, tables_alone(report), not dry_run)
            if rebuilt and not dry_run:
                report = verify_all(store, advance)  # what only that table could tell is known now
        damaged, files = [one for one in report.damaged_shards() if one not in rebuilt], report.damaged_files()
        for shard in rebuilt:
            say(f"shard {shard:05d}: its table {'could be' if dry_run else 'is'} written again from its tar")
        moved = {} if dry_run else repair_all(store, report)
        for shard in damaged:
            left = "damaged" if dry_run else "its files have changed since they were read, so they stay"
            say(f"shard {shard:05d}: {'moved to ' + moved[shard][0].rpartition('/')[0] if shard in moved else left}")
        moved_files = {} if dry_run else repair_meta(store, report)
    for name in files:
        say(f"{name}: {'moved to ' + moved_files[name][0] if name in moved_files else 'damaged or missing'}")
    what = " and ".join(
        counted(num, word)
        for num, word in ((len(damaged if dry_run else moved), "shard"), (len(files), "_meta file"))
        if num
    )
    say(
        f"{what} {'would be moved' if dry_run else 'moved; run the command that makes the set again'}"
        if what
        else "nothing else to repair"
        if rebuilt
        else "nothing to repair"
    )
    if moved:
        from gen.edit.remake import may_come_out_otherwise

        if may_come_out_otherwise(there):
            say("edits that a language model judged may come out otherwise; the old ones are in _meta/quarantine")


def subset(
    folder: Folder,
    name: Annotated[str, typer.Argument(help="What the subset shall be called, for data.domains.N.subset.")],
    long_tail: Annotated[
        float | None,
        typer.Option(
            help="How many times as many samples the first class has as the last, by class id.", show_default="none"
        ),
    ] = None,
    per_class: Annotated[
        int | None,
        typer.Option(help="So many samples of each class, drawn; 10 are among 100.", show_default="none"),
    ] = None,
    seed: Annotated[int, typer.Option(help="With --long-tail and --per-class: which samples of a class stay.")] = 0,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Of an edited set: side=feasible, kind=background, attribute=...; repeatable. Several values of one "
            "key: any of them.",
            show_default="none",
        ),
    ] = None,
    of: Annotated[
        str | None, typer.Option(help="Out of this subset, such as 2x or filtered.", show_default="everything")
    ] = None,
) -> None:
    """Name a part of a data set to train on: N of each class, a long tail, edits of one side or kind. No shard changes.

    Example: `sixfold subset out/sandbox filtered-50 --per-class 50 --of filtered`,
    `sixfold subset out/sandbox tail-100 --long-tail 100`,
    `sixfold subset out/edits feasible --where side=feasible --of 2x`
    """
    with waiting("loading the program"):
        from cluster.process.writers import written_by_one
        from shards.disk.amounts import counted
        from shards.disk.data_set import open_data_set
        from shards.disk.safe_text import visible
        from shards.set.drawn import write_per_class
        from shards.set.edited import parse_where, write_edited
        from shards.set.long_tail import write_long_tail

    rules = {"--long-tail": long_tail is not None, "--per-class": per_class is not None, "--where": bool(where)}
    given = [rule for rule, is_given in rules.items() if is_given]
    if len(given) != 1:
        found = " and ".join(given) or "none"
        raise ValueError(f"found {found}, expected one of {', '.join(rules)}")
    asked = parse_where(where or [])
    open_data_set(folder)  # refuses another folder before anything is written there
    with written_by_one(folder, "subset", warn) as store, waiting("choosing samples"):
        if long_tail is not None:
            first, *between, last = write_long_tail(store, name, long_tail, seed, of).values()
            total = first + sum(between) + last
            spread = f" of {len(between) + 2:,} classes, from {first:,} down to {last:,}"
        elif per_class is not None:
            keeps = write_per_class(store, name, per_class, seed, of).values()
            total, short = sum(keeps), sum(keep < per_class for keep in keeps)
            spread = f" of {len(keeps):,} classes"
            spread += f", of which {short:,} had fewer than {per_class:,}, the least {min(keeps):,}" if short else ""
        else:
            total, spread = write_edited(store, name, asked, of), ""
    say(f"{visible(name)}: {counted(total, 'sample')}{spread}; read it with data.domains.N.subset={visible(name)}")


def show(
    folder: Folder,
    out: Annotated[Path | None, path_option("Where the page goes.", "_meta/gallery of the data set")] = None,
    subset: Annotated[str | None, typer.Option(help="A subset's name such as 2x.", show_default="everything")] = None,
) -> None:
    """Write a static page of the images by class, with prompt, seed and status; it opens from disk.

    Example: `sixfold show out/sandbox`
    """
    from shards.gallery_page import gallery_page

    say(gallery_page(folder, out, subset))


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
    with waiting("loading the program"):
        from cluster.process.writers import written_alone
        from shards.disk.address import file_path
        from shards.disk.amounts import counted
        from shards.disk.data_set import open_data_set
        from shards.labels.classes import ClassSpec, load_classes
        from shards.set.subset import named_subset
        from shards.views import export as exports
        from shards.views.image_folder import export_image_folder, import_image_folder

    if to == "shards":
        if subset is not None or unlicensed != "refuse":
            raise ValueError("--subset and --unlicensed choose among the samples of a data set; not with --to shards")
        with bar("import") as advance:
            known = None if classes is None else load_classes(ClassSpec(source=classes, per_class=1))
            done = import_image_folder(
                file_path(folder),
                out,
                licence=licence,
                classes=known,
                alone=lambda store: written_alone(store, "import", warn),
                progress=advance,
            )
        say(
            f"{counted(done.num_samples, 'image')} in {counted(done.num_shards, 'shard')} in {out}; "
            f"{done.num_failed:,} not readable"
        )
        if done.ignored:
            say(f"left out: {done.left_out()}")
        raise typer.Exit(done.exit_code)
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
    store = open_data_set(folder)
    choice = exports.Choice(named_subset(store, subset), unlicensed)
    with waiting(f"exporting for {to}"):
        exported = formats[to](store, file_path(out), choice)
    left_out = f", {exported.num_left_out:,} without licence left out" if exported.num_left_out else ""
    say(f"{counted(exported.num_samples, 'sample')} for {to} in {out}{left_out}")


def push(
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="A data set, or the folder of a training with its exported model.")
    ],
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository on the Hugging Face hub.")],
    go: Annotated[bool, typer.Option("--go", help="Really send; without it only what would be sent is told.")] = False,
    public: Annotated[bool, typer.Option("--public", help="A repository that all may see.")] = False,
    remove_old: Annotated[
        bool, typer.Option("--remove-old", help="Remove what an earlier push left there and this one does not have.")
    ] = False,
    licence: Annotated[
        str | None, typer.Option(help="Of a model: its licence, for the card.", show_default="none")
    ] = None,
    unlicensed: Annotated[
        Literal["refuse", "keep"],
        typer.Option(help="Of a data set: samples without a known licence; keep is for your own use."),
    ] = "refuse",
    deadline_h: Annotated[
        float, typer.Option(min=0.001, help="Hours after which it ends; run it again to go on.")
    ] = 24,
) -> None:
    """Put a data set or a trained model on the Hugging Face hub, with its card; a dry run unless you say `--go`.

    The token comes from HF_TOKEN. The repository is private. Run it again to go on.

    Example: `sixfold push out/sandbox someone/numbers`
    """
    with waiting("loading the program"):
        from shards.disk.address import local_root
        from shards.disk.amounts import counted, size_text
        from shards.disk.data_set import is_data_set, kind_of_place, no_data_set
        from shards.disk.store import open_for_reading
        from shards.views.hub import check_repo_id, token_of
        from shards.views.hub import push as push_files
        from shards.views.push import data_set_files, is_of_a_set

    check_repo_id(repo)
    store, root = open_for_reading(folder), local_root(folder)
    if is_data_set(store):
        kind: Literal["dataset", "model"] = "dataset"
        files = data_set_files(store, repo.partition("/")[2], unlicensed)
        is_ours: Callable[[str], bool] = is_of_a_set
    elif root is not None and ((root / "model.safetensors").is_file() or kind_of_place(store) == "training"):
        from train.model.pretrained import ABOUT, CONFIG, WEIGHTS
        from train.task.model_card import model_files

        kind, files = "model", model_files(root, repo, licence)
        is_ours = {WEIGHTS, ABOUT, CONFIG}.__contains__
    else:
        raise no_data_set(store)
    shown = [f"{one.name}  {size_text(one.size)}" for one in files]
    what = f"{counted(len(files), 'file')}, {size_text(sum(one.size for one in files))}"
    if not go:
        say(
            "\n".join(
                shown if len(shown) <= MAX_LISTED else [*shown[:MAX_LISTED], f"and {len(shown) - MAX_LISTED:,} more"]
            )
        )
        say(f"{what} would go to the {'public' if public else 'private'} {kind} {repo}; send them with --go")
        return
    say(f"{what} to the {'public' if public else 'private'} {kind} {repo}")
    done = push_files(
        repo,
        kind,
        files,
        token_of(os.environ),
        public=public,
        is_ours=is_ours,
        remove_old=remove_old,
        endpoint=os.environ.get("HF_ENDPOINT"),
        deadline_s=3600 * deadline_h,
        say=lambda line: say(line, err=True),
    )
    sent = f"{done.num_sent:,} sent now ({size_text(done.bytes_sent)})"
    removed = f", {done.num_removed:,} of another push removed" if done.num_removed else ""
    say(f"{counted(done.num_files, 'file')} at {done.address}, {sent}{removed}")


def status(
    folder: Folder,
    watch: Annotated[
        bool, typer.Option("--watch", help="Look again every few seconds, until nobody writes any more.")
    ] = False,
) -> None:
    """How far a run is and how fast: shards, images, rejected draws, time left, who writes, how the last starts ended.

    Of a training, a sweep, embeddings or an index: how its last starts ended. Exit 3 if shards are known to be damaged,
    or if some that the last call was asked for, or below the last one, are missing or short; without shards, if the
    last start is not complete.

    Example: `sixfold status out/sandbox --watch`
    """
    with waiting(f"reading {folder}"):
        from cluster.process.exit import EXIT_INCOMPLETE
        from shards.disk.store import open_for_reading
        from shards.watch import look
        from shards.watch import watch as watch_it

        store = open_for_reading(folder)
        jobs = _jobs(folder)
        if jobs and not _is_begun(store):
            say("\n".join([*jobs, "nothing is made yet"]))
            raise typer.Exit(EXIT_INCOMPLETE)
        state, _ = look(store)
    for line in jobs:
        say(line)
    if watch:
        state = watch_it(store)
    say(state.text)
    raise typer.Exit(0 if state.is_whole else EXIT_INCOMPLETE)


def _jobs(folder: str) -> list[str]:
    """A line for each of the newest jobs that were submitted for the folder."""
    from cluster.submit.submit import told_jobs

    return [f"{'job':<10}{line.removeprefix('job ')}" for line in told_jobs(folder)]


def _is_begun(store: "Store") -> bool:
    from cluster.process.lives import lives_of
    from cluster.process.writers import writers_of
    from shards.disk.data_set import is_data_set

    return is_data_set(store) or bool(lives_of(store, newest=1)) or bool(writers_of(store))

"""What a run keeps under `_meta/` of its output.

In: a store and what a run depends on. Out: the run's fingerprint. On disk:

    run.json          the identity (recipe without `cluster`, class list, model digest, versions), its fingerprint, and
                      the hashes of the next four
    recipe.yaml       the resolved recipe, which `sixfold generate` reads back
    classes.json      id, name, WordNet id and count of each class
    meanings.jsonl    which sense of each class name is meant, and how sure the choice was
    prompts.parquet   every prompt of every class
    subsets/          `6x.parquet` and the like: exactly the samples of a scale
    summary.json      what the last call was asked for, and how it ended

A file that is gone or damaged is written again by the same recipe; hashes tell that it is the same. Even `run.json` is:
the fingerprint, which every record has, is a hash of the identity and of the prompts.
"""

import contextlib
import hashlib
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.process.stop_flag import StopFlag
from cluster.recipes.folder import listing
from cluster.recipes.load import canonical_json, dump_recipe, fingerprint
from gen.make.output import has_shards, refuse_beside_sharers
from gen.make.scale import Store
from gen.prompts.table import PROMPT_TABLE, PromptTable
from gen.prompts.write import MEANINGS, PROMPTS, Say, write_prompts
from gen.run.recipe import Recipe, changes_of, drawn_from
from shards.disk.address import local_root
from shards.disk.amounts import counted
from shards.disk.checked_json import CHECKSUM, plain_json, to_checked
from shards.disk.layout import META, RUN
from shards.disk.safe_text import quoted, redact, visible
from shards.disk.store import open_for_reading
from shards.labels.classes import Class, load_classes
from shards.set.commit import claimed
from shards.set.manifest import scan, subset_files
from shards.set.origin import Origin, changed_files, origin_bytes, read_origin

RECIPE_NAME = "recipe.yaml"
RECIPE = f"{META}/{RECIPE_NAME}"
CLASSES = "classes.json"
MAX_NAME = 60  # characters of a class name in one


def has_prompts(out: str) -> bool:
    """Whether a run has drawn the prompts of the output, a folder or URL. Raises ValueError for what is no address."""
    root = local_root(out)
    return (root is None or root.is_dir()) and open_for_reading(out).exists(PROMPT_TABLE)


def begun_by(store: Store) -> Origin | None:
    """The run that began here; None if none did. Raises ValueError if `run.json` is damaged or is that of an import."""
    known = read_origin(store)
    if known is not None and not known.body.keys() >= {"identity", "code", "prompts_sha256"}:
        raise ValueError(
            f"{store.url}: found a data set that an import or `sixfold retrieve` began, expected one of `sixfold "
            "generate`; use another output folder"
        )
    return known


def rows_of(classes: Sequence[Class]) -> list[list[str | int | None]]:
    """The classes as `classes.json` holds them: meaning and kind only where the list says one."""
    told = any(one.meaning or one.kind for one in classes)
    return [
        [one.id, one.name, one.wordnet_id, one.count, *([one.meaning, one.kind] if told else [])] for one in classes
    ]


def classes_of(store: Store, recipe: Recipe, class_list: str) -> list[Class]:
    """The classes of the run, as it stored them; `class_list` is their hash.

    Nothing is fetched: an address in a data set is the choice of whoever made it, and not of who reads it.
    """
    try:
        rows = plain_json(store.read_bytes(f"{META}/{CLASSES}"))
    except FileNotFoundError:  # an earlier version began this set
        if "://" in recipe.classes.source:
            raise ValueError(
                f"{store.url}: its classes are at {visible(redact(recipe.classes.source))[:200]}, an address that the "
                f"data set chose, so nothing is fetched; fetch the list yourself, and name your copy in its {RECIPE}"
            ) from None
        rows = rows_of(load_classes(recipe.classes))
    except ValueError:
        raise ValueError(
            f"{store.url}/{META}/{CLASSES}: found no JSON, expected a list; run `sixfold repair`"
        ) from None
    if fingerprint(rows) != class_list:
        raise ValueError(f"{store.url}: found other classes than those it was made for; run `sixfold verify`")
    return [Class(*row) for row in rows]


def open_output(
    store: Store,
    known: Origin | None,
    recipe: Recipe,
    identified: dict[str, Any],
    classes: list[Class],
    code: str,
    say: Say,
    stop: StopFlag,
) -> tuple[str, Mapping[str, Any]]:
    """The run's fingerprint, and its identity as it began. Writes `run.json` and its company the first time, compares
    every later time, and writes again what is damaged.

    `known` is `begun_by(store)`, `identified` `identity(recipe)`, `code` the code hash. Meanings are chosen and prompts
    drawn the first time only: `run.json`, written last, says that they are whole. Raises ValueError with the list of
    differences if the output was made by another recipe, other weights or other library versions; Draining on a stop.
    If nothing was made yet, the other recipe takes its place. A field that the version of sixfold behind the output did
    not know yet is no difference while it stands at its default.
    """
    listed = rows_of(classes)
    identified = identified | {"class_list": fingerprint(listed)}

    def company(mark: str, texts: Mapping[str, bytes]) -> dict[str, bytes]:
        heading = f"# the resolved recipe of run {mark[:12]}; versions and hashes are in run.json\n"
        resolved = (heading + dump_recipe(recipe)).encode()
        return {**texts, RECIPE_NAME: resolved, CLASSES: canonical_json(listed) + b"\n"}

    if known is not None:
        changed = changes_of(known.body["identity"], identified, known.body.get("contents", {}))
        if changed and not has_shards(store):
            refuse_beside_sharers(store, changed)
            say(f"{store.url}: nothing was made there yet, so it begins anew with this recipe ({listing(changed)})")
            for name in (RUN, *subset_files(store)[0]):
                store.delete(name)
            known = None
        elif changed:
            words = [_class_change(store, classes) if line.startswith("class_list:") else line for line in changed]
            raise ValueError(
                f"{store.url}: was made by another recipe ({listing(words)}){version_note(known, code)}; use another "
                f"output folder, or the recipe in its {RECIPE}"
            )
    if known is None:
        texts, mark = _texts_to_begin(store, recipe, identified, classes, say, stop)
        files = company(mark, texts)
        for name, data in files.items():
            store.replace(f"{META}/{name}", data)
        about = {"prompts_sha256": _sha256(texts[PROMPTS]), "code": code, "identity": identified}
        about["contents"] = drawn_from(recipe.meanings, recipe.llm)
        if not store.write_exclusive(RUN, origin_bytes(mark, files, about)):
            raise ValueError(f"{store.url}: another run began here at this moment; run the same command again")
        return mark, identified
    torn = changed_files(store, known)
    if torn:
        texts = drawn_texts(recipe, classes, say, stop) if torn.keys() & {PROMPTS, MEANINGS} else {}
        if texts and _sha256(texts[PROMPTS]) != known.files[PROMPTS]:
            if PROMPTS in torn:
                raise ValueError(
                    f"{store.url}/{PROMPT_TABLE}: is not the file this run began with, and this recipe draws others "
                    "now (a language model answers anew); bring that file back, or go on in another output folder"
                )
            texts = {}  # the prompts are there; how their meanings were chosen is lost
        _mend(store, known, torn, company(known.fingerprint, texts), say)
    return known.fingerprint, known.body["identity"]


def _mend(store: Store, known: Origin, torn: Iterable[str], files: Mapping[str, bytes], say: Say) -> None:
    """Write the torn files again, as far as `files` has them, and their hashes; what it has not is covered no more."""
    mended = sorted(name for name in torn if name in files)
    for name in mended:
        store.replace(f"{META}/{name}", files[name])
    if "files" in known.body:
        hashes = {name: sha256 for name, sha256 in known.body["files"].items() if name not in torn}
        hashes |= {name: _sha256(files[name]) for name in mended}
        rest = {name: value for name, value in known.body.items() if name != CHECKSUM}
        store.replace(
            RUN, to_checked({**rest, "files": {name: hashes[name] for name in known.files if name in hashes}})
        )
    lost = sorted(set(torn) - set(mended))
    say(
        f"{store.url}/{META}: found damaged or missing files; written again: {', '.join(mended) or 'none'}"
        + (f"; lost: {', '.join(lost)}" if lost else "")
    )


def _texts_to_begin(
    store: Store, recipe: Recipe, identified: Mapping[str, Any], classes: Sequence[Class], say: Say, stop: StopFlag
) -> tuple[dict[str, bytes], str]:
    """Prompts and meanings of a run without a `run.json`, and its fingerprint.

    If there are shards, it was lost; then the texts that lie there are taken, or drawn again, if with them the
    fingerprint is that of the shards. Raises ValueError if it is not.
    """
    shards = claimed(store) | {shard: record.fingerprint for shard, record in scan(store).records.items()}
    before = set(shards.values())
    if before:
        texts = {}
        for name in (PROMPTS, MEANINGS):
            with contextlib.suppress(FileNotFoundError):
                texts[name] = store.read_bytes(f"{META}/{name}")
        if PROMPTS in texts and _mark_of(identified, texts) in before:
            return texts, _mark_of(identified, texts)
    texts = drawn_texts(recipe, classes, say, stop)
    mark = _mark_of(identified, texts)
    if before - {mark}:
        raise ValueError(
            f"{store.url}: found {counted(len(shards), 'shard')} of run {min(before)[:12]} and no {RUN}, "
            f"expected shards of this recipe (run {mark[:12]}); bring that file back, or use another output folder"
        )
    return texts, mark


def drawn_texts(recipe: Recipe, classes: Sequence[Class], say: Say, stop: StopFlag) -> dict[str, bytes]:
    """Name -> bytes: the table of prompts and, unless it was a finished one, the meanings behind it."""
    with tempfile.TemporaryDirectory() as scratch:
        made = write_prompts(recipe, classes, Path(scratch), say, stop)
        for sentence in made.sentences():
            say(sentence)
        names = [PROMPTS, *([MEANINGS] if made.meanings is not None else [])]
        return {name: (Path(scratch) / name).read_bytes() for name in names}


def _mark_of(identified: Mapping[str, Any], texts: Mapping[str, bytes]) -> str:
    """The fingerprint of a run, which every record of it has."""
    return fingerprint({"identity": dict(identified), "prompts_sha256": _sha256(texts[PROMPTS])})


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _class_change(store: Store, classes: Sequence[Class]) -> str:
    """In what the class list is not the one that this output began with."""
    table = PromptTable.load(store.read_bytes(PROMPT_TABLE))
    before, now = table.num_per_class().keys(), {one.id for one in classes}
    if before != now:
        odd = min(before ^ now)
        return f"classes: {len(before)} before, {len(now)} now, id {odd} is {'gone' if odd in before else 'new'}"
    for one in classes:
        name = table.prompt(one.id, 0).class_name
        if name != one.name:
            return f"classes: id {one.id} was {quoted(name, MAX_NAME)} before, {quoted(one.name, MAX_NAME)} now"
    return "classes: the same names with other counts, WordNet ids, meanings or kinds"


def version_note(known: Origin, code: str) -> str:
    """Says so if other code than `code` began the run."""
    before = str(known.body["code"])
    return "" if before == code else f", by another version of sixfold (code {before[:12]}, here {code[:12]})"

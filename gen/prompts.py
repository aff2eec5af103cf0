"""Prompts: the texts a generator is given, drawn without repeats for each class.

In: classes, a `PromptSpec`, the run seed. Out and on disk: prompts.parquet (PROMPT_SCHEMA), one row per prompt, sorted
by (class_id, prompt_id), prompt_id counting from 0 within a class; the same bytes for the same input and pyarrow.

A template is text with slots: `{name}` is filled with the class's meaning if it has one, else with its name; any other
slot takes a word from `parts`. No text occurs twice in a class, and its first prompts are already varied: gen.templates
states the order.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, model_validator

from gen.classes import Class
from gen.templates import Wordings, builtin_templates, fill, slots_of

MAX_TEXT_BYTES = 8192
MAX_PER_CLASS = 10_000
ROWS_PER_GROUP = 16_384

PROMPT_SCHEMA = pa.schema(
    [
        pa.field("class_id", pa.int32(), nullable=False),
        pa.field("prompt_id", pa.int32(), nullable=False),
        pa.field("class_name", pa.string(), nullable=False),
        pa.field("meaning", pa.string()),  # which sense of the name; null = none was chosen
        pa.field("kind", pa.string(), nullable=False),
        pa.field("context", pa.string()),  # JSON of the words of all slots but style, in the template's order
        pa.field("style", pa.string()),  # the word of the slot `style`
        pa.field("text", pa.string(), nullable=False),  # what the generator sees
        pa.field("negative", pa.string(), nullable=False),
    ]
)
REPETITIVE_COLUMNS = ["class_name", "meaning", "kind", "context", "style", "negative"]


@dataclass(frozen=True)
class Prompt:
    """One row of prompts.parquet."""

    class_id: int
    prompt_id: int
    class_name: str
    meaning: str | None
    kind: str
    context: str | None
    style: str | None
    text: str
    negative: str


class PromptSpec(BaseModel):
    """How texts are made from class names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["name", "template"] = Field("template", description="name: the bare name; template: filled sentences")
    templates: tuple[str, ...] | None = Field(None, min_length=1, description="null = the 80 of gen/templates.txt")
    parts: Mapping[str, tuple[str, ...]] = Field(default={}, description="words for the slots of the templates")
    meanings: Mapping[str | int, str] = Field(default={}, description="class name or id -> phrase that tells the sense")
    per_class: int | None = Field(None, ge=1, le=MAX_PER_CLASS, description="prompts a class; null = all there are")
    negative: str = Field("", description="what the generator is told to avoid, in every prompt")

    @model_validator(mode="after")
    def _templates_and_parts_fit(self) -> "PromptSpec":
        _check_text(self.negative, "prompts.negative", may_be_empty=True)
        if self.kind == "name" and (self.templates or self.parts):
            raise ValueError("prompts: found templates or parts beside kind: name, expected kind: template")
        for slot, words in self.parts.items():
            _check_list(words, f"prompts.parts.{slot}")
        _check_list(self.texts, "prompts.templates")
        used = set()
        for template in self.texts:
            slots = slots_of(template)
            if "name" not in slots:
                raise ValueError(f"prompts.templates: found {ascii(template)[:80]}, expected the slot {{name}} in it")
            for slot in slots:
                if slot != "name" and slot not in self.parts:
                    near = get_close_matches(slot, [*self.parts, "name"], n=1)
                    hint = f"did you mean {{{near[0]}}}?" if near else f"add its words as prompts.parts.{slot}"
                    raise ValueError(
                        f"prompts.templates: found the slot {{{slot}}}, expected one of prompts.parts; {hint}"
                    )
            used |= set(slots)
        for slot in self.parts:
            if slot == "name" or slot not in used:
                raise ValueError(f"prompts.parts: found {slot!r}, expected a slot that a template uses; remove it")
        return self

    @cached_property
    def wordings(self) -> Wordings:
        return Wordings.of(self.texts, self.parts)

    @property
    def texts(self) -> tuple[str, ...]:
        """The templates in force."""
        if self.kind == "name":
            return ("{name}",)
        return self.templates or builtin_templates()


def _check_list(words: Sequence[str], where: str) -> None:
    if not words:
        raise ValueError(f"{where}: found an empty list, expected at least one text")
    for index, word in enumerate(words):
        _check_text(word, where)
        if word in words[:index]:
            raise ValueError(f"{where}: found {ascii(word)[:60]} twice, expected distinct texts; remove one")


def _check_text(text: str, where: str, may_be_empty: bool = False) -> str:
    """The law of all texts: something to read, UTF-8, no NUL, at most 8 KiB. Other characters are kept exactly."""
    if not may_be_empty and not text.strip():
        raise ValueError(f"{where}: found an empty text, expected some words")
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError:
        raise ValueError(f"{where}: found a lone surrogate in {ascii(text)[:60]}, expected Unicode text") from None
    if "\0" in text:
        raise ValueError(f"{where}: found a NUL character in {ascii(text)[:60]}, expected text without it")
    if size > MAX_TEXT_BYTES:
        raise ValueError(f"{where}: found a text of {size} bytes, expected at most {MAX_TEXT_BYTES}; shorten it")
    return text


def draw_prompts(one: Class, meaning: str | None, spec: PromptSpec, seed: int) -> list[Prompt]:
    """The prompts of one class. Raises ValueError if there are fewer distinct ones than asked for."""
    where = f"prompts of class {one.id} ({one.name})"
    available = spec.wordings.num_combinations
    if spec.per_class is None and available > MAX_PER_CLASS:
        raise ValueError(
            f"prompts: found {available} combinations a class, expected at most {MAX_PER_CLASS}; set prompts.per_class"
        )
    wanted = available if spec.per_class is None else spec.per_class
    name = one.name if meaning is None else meaning
    count = wanted
    while True:
        prompts: dict[str, Prompt] = {}  # two combinations may read the same: "a {x}" with "b c", "a b {x}" with "c"
        for template, words in spec.wordings.draw(seed, one.id, count):
            text = _check_text(fill(template, {"name": name} | words), where)
            if text in prompts or len(prompts) == wanted:
                continue
            context = {slot: words[slot] for slot in slots_of(template) if slot in words and slot != "style"}
            prompts[text] = Prompt(
                class_id=one.id,
                prompt_id=len(prompts),
                class_name=one.name,
                meaning=meaning,
                kind=spec.kind,
                context=json.dumps(context, ensure_ascii=False) if context else None,
                style=words.get("style"),
                text=text,
                negative=spec.negative,
            )
        if len(prompts) == wanted or spec.per_class is None:
            return list(prompts.values())
        if count >= available:
            raise ValueError(
                f"{where}: found {len(prompts)} distinct texts, expected {wanted}; add templates or words, or lower "
                "prompts.per_class"
            )
        count = min(2 * count, available)


def choose_meanings(classes: Sequence[Class], meanings: Mapping[str | int, str]) -> dict[int, str]:
    """Class id -> meaning. Integers are ids; texts are names, or ids if no class has that name.

    Meanings of classes that are not in the list are left out (one table may serve many runs), unless the key looks like
    a misspelt name of a class that has none. Raises ValueError for that, and for a name that two classes share.
    """
    by_name: dict[str, list[int]] = {}
    for one in classes:
        by_name.setdefault(one.name, []).append(one.id)
    ids = {one.id for one in classes}
    chosen: dict[int, str] = {}
    unknown: list[str] = []
    for key, meaning in meanings.items():
        _check_text(meaning, f"prompts.meanings.{key}")
        named = by_name.get(key, []) if isinstance(key, str) else []
        if len(named) > 1:
            raise ValueError(
                f"prompts.meanings: found {key!r}, which names the classes {named}, expected an id; use one"
            )
        class_id = named[0] if named else int(key) if str(key).isdecimal() else None
        if class_id in ids:
            if class_id in chosen:
                raise ValueError(
                    f"prompts.meanings: found two meanings for class {class_id}, expected one; remove {key!r}"
                )
            chosen[class_id] = meaning
        elif class_id is None:
            unknown.append(str(key))
    without = [one.name for one in classes if one.id not in chosen]
    for key in unknown:
        near = get_close_matches(key, without, n=1, cutoff=0.75)
        if near:
            raise ValueError(f"prompts.meanings: found {key!r}, expected a class name; did you mean {near[0]!r}?")
    return chosen


# the table


def write_prompts(classes: Sequence[Class], spec: PromptSpec, seed: int, path: Path) -> int:
    """Write prompts.parquet, all of it or nothing, and return the number of prompts. Holds one row group in memory."""
    temp = path.with_name(path.name + ".tmp")
    try:
        with temp.open("wb") as file:
            count = _write_table(classes, spec, seed, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temp, path)
    finally:
        temp.unlink(missing_ok=True)
    return count


def _write_table(classes: Sequence[Class], spec: PromptSpec, seed: int, file: BinaryIO) -> int:
    meanings = choose_meanings(classes, spec.meanings)
    count = 0
    rows: list[Prompt] = []
    with pq.ParquetWriter(file, PROMPT_SCHEMA, compression="zstd", compression_level=3) as writer:
        for one in sorted(classes, key=lambda one: one.id):
            for prompt in draw_prompts(one, meanings.get(one.id), spec, seed):
                rows.append(prompt)
                if len(rows) == ROWS_PER_GROUP:
                    writer.write_batch(_batch(rows))
                    count, rows = count + len(rows), []
        if rows or not count:
            writer.write_batch(_batch(rows))
    return count + len(rows)


def _batch(rows: Sequence[Prompt]) -> pa.RecordBatch:
    columns = {name: [getattr(row, name) for row in rows] for name in PROMPT_SCHEMA.names}
    return pa.RecordBatch.from_pydict(columns, schema=PROMPT_SCHEMA)


class PromptTable:
    """prompts.parquet in memory: texts as one Arrow buffer, everything that repeats as a dictionary."""

    def __init__(self, table: pa.Table, starts: Mapping[int, tuple[int, int]]) -> None:
        self._table = table
        self._starts = starts  # class id -> (first row, rows)

    @staticmethod
    def load(source: Path | bytes) -> "PromptTable":
        """Read and check a table. Raises ValueError if it is not a whole, sorted prompt table."""
        where = str(source) if isinstance(source, Path) else "prompts.parquet"
        try:
            names = pq.read_schema(_open(source)).names
            if names != PROMPT_SCHEMA.names:
                raise ValueError(
                    f"{where}: found the columns {', '.join(names)[:120]}, expected {', '.join(PROMPT_SCHEMA.names)}; "
                    "write it again with `sixfold prompts`"
                )
            table = pq.ParquetFile(_open(source), read_dictionary=REPETITIVE_COLUMNS).read()
        except FileNotFoundError:
            raise ValueError(f"{where}: found no prompt table, expected one; write it with `sixfold prompts`") from None
        except (pa.ArrowInvalid, OSError) as error:
            reason = " ".join(str(error).split())[:120]
            raise ValueError(
                f"{where}: found a damaged table ({reason}); write it again with `sixfold prompts`"
            ) from None
        class_ids = table.column("class_id").to_numpy()
        ids, first, sizes = np.unique(class_ids, return_index=True, return_counts=True)
        numbers = np.arange(len(class_ids)) - np.repeat(first, sizes)
        ascending = bool((np.diff(class_ids) >= 0).all())
        if not len(ids) or not ascending or not np.array_equal(table.column("prompt_id").to_numpy(), numbers):
            raise ValueError(
                f"{where}: found rows out of order or missing, expected prompt_id 0, 1, ... within ascending class_id; "
                "write it again with `sixfold prompts`"
            )
        rows = zip(first.tolist(), sizes.tolist(), strict=True)
        return PromptTable(table, dict(zip(ids.tolist(), rows, strict=True)))

    def __len__(self) -> int:
        return self._table.num_rows

    def num_per_class(self) -> dict[int, int]:
        """Class id -> number of prompts, ids ascending."""
        return {class_id: count for class_id, (_, count) in self._starts.items()}

    def prompt(self, class_id: int, prompt_id: int) -> Prompt:
        first, count = self._starts.get(class_id, (0, 0))
        if not 0 <= prompt_id < count:
            raise KeyError(f"prompt {prompt_id} of class {class_id}: the table has {count} for this class")
        return Prompt(**{name: self._table.column(name)[first + prompt_id].as_py() for name in PROMPT_SCHEMA.names})


def _open(source: Path | bytes) -> Path | pa.BufferReader:
    return source if isinstance(source, Path) else pa.BufferReader(source)

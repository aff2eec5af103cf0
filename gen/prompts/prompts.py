"""Prompts: the texts a generator is given, drawn without repeats for each class.

In: classes, their meanings, a `PromptSpec`, the run seed, and for some kinds a lexicon or a language model. Out: the
prompts of a class. On disk: prompts.parquet (`gen.prompts.table`). The same input gives the same bytes.

A form is text with slots: `{name}` is filled with the class's meaning if it has one, else with its name, `{subject}`
with the same behind its article; any other slot takes a word. No text occurs twice in a class, and its first prompts
are already varied.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gen.llm.ask import Llm
from gen.llm.call import LlmError
from gen.model.style_token import RowsName, StyleToken, open_style_token
from gen.prompts.table import BASE_SCHEMA, MAX_LISTED, Prompt, PromptTable, write_table
from gen.wording.captions import CaptionSpec, draw_captions
from gen.wording.contexts import ContextSpec, Embed, draw_contexts
from gen.wording.lexicon import SHIPPED, Lexicon
from gen.wording.parts import NAME_SLOTS, PARTS, Wording, check_text
from gen.wording.styles import add_styles, mix
from gen.wording.templates import Wordings, builtin_templates, slots_of
from shards.disk.address import BESIDE, Beside, file_path
from shards.disk.safe_text import quoted
from shards.labels.classes import Class

MAX_PER_CLASS = 10_000
TOKEN_SLOT = "token"  # the column of a style token's word


class PromptSpec(BaseModel):
    """How texts are made from class names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["name", "template", "caption", "cd", "sd", "cd+sd"] = Field(
        "template",
        description="name: the bare name; template: filled sentences; caption: sentences by a captioner; cd: varied "
        "contexts; sd: contexts in an artistic style; cd+sd: both",
    )
    per_class: int | None = Field(
        None,
        ge=1,
        le=MAX_PER_CLASS,
        description="prompts a class, over all folds together; null = all there are. Images take them in turn: where a "
        "class has more images than prompts, a prompt makes several, each with noise of its own",
    )
    style_share: float = Field(0.5, ge=0, le=1, description="of the prompts of cd+sd: share that has a style")
    lexicon: Annotated[str, Beside(frozenset(SHIPPED))] = Field(
        "general", min_length=1, description="general, sandbox, or a YAML file of that form"
    )
    contexts: ContextSpec = ContextSpec()
    captions: CaptionSpec = CaptionSpec()
    templates: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="null = those of the class list's own task (dtd, pets, ...), else the 80 in gen/wording; {subject} "
        "is the name with the article it needs, {name} without",
        examples=[["a photo of {subject}", "a {colour} {name}"]],
    )
    parts: Mapping[str, tuple[str, ...]] = Field(
        default={}, description="words for the slots of the templates", examples=[{"colour": ["red", "blue"]}]
    )
    negative: str = Field(
        "", description="what the generator is told to avoid, in every prompt", examples=["text, watermark"]
    )
    style_token: Annotated[str | None, BESIDE] = Field(
        None,
        min_length=1,
        description="folder of a token that `sixfold invert` learned: its word stands in every prompt, of any kind, "
        "and its rows in the model's text encoders",
        examples=["out/invert/rendition"],
    )
    style_rows: RowsName = Field(
        "learned",
        description="of that token; untrained: the control, the same words with the rows before the first step",
    )
    style_form: str = Field(
        "{prompt} in the style of {token}",
        description="how a prompt says the token; templates that have the slot {token} stay as they are",
    )
    file: Annotated[str | None, BESIDE] = Field(
        None,
        min_length=1,
        description="a finished prompts.parquet; then nothing else here, in meanings and in llm is used, but "
        "style_token, whose word its texts say already",
        examples=["out/prompts/prompts.parquet"],
    )

    @model_validator(mode="after")
    def _negative_is_text(self) -> "PromptSpec":
        check_text(self.negative, "prompts.negative", may_be_empty=True)
        return self

    @model_validator(mode="after")
    def _style_is_said(self) -> "PromptSpec":
        if sorted(slots_of(self.style_form)) != ["prompt", TOKEN_SLOT]:
            raise ValueError(
                f"prompts.style_form: found {quoted(self.style_form, 80)}, expected the slots {{prompt}} and "
                "{token}, each once"
            )
        for name in ("style_rows", "style_form"):
            found = getattr(self, name)
            if found != PromptSpec.model_fields[name].default and self.style_token is None:
                raise ValueError(f"prompts.{name}: found {found} without a style_token; set that, or remove it")
        return self

    @model_validator(mode="after")
    def _templates_fit_kind(self) -> "PromptSpec":
        if self.kind != "template" and (self.templates or self.parts):
            raise ValueError(
                f"prompts: found templates or parts beside kind: {self.kind}, expected kind: template; remove them"
            )
        return self

    @model_validator(mode="after")
    def _number_fits_kind(self) -> "PromptSpec":
        if self.kind not in ("name", "template") and self.per_class is None:
            raise ValueError(f"prompts.per_class: found none, expected a number beside kind: {self.kind}; set it")
        return self

    @model_validator(mode="after")
    def _templates_have_their_slots(self) -> "PromptSpec":
        for slot, words in self.parts.items():
            _check_list(words, f"prompts.parts.{slot}")
        _check_list(self.texts, "prompts.templates")
        used = set()
        for template in self.texts:
            slots = slots_of(template)
            if not set(NAME_SLOTS) & set(slots):
                raise ValueError(f"prompts.templates: found {quoted(template, 80)}, expected the slot {{name}} in it")
            for slot in slots:
                if slot == TOKEN_SLOT and self.style_token is not None:
                    continue
                if slot not in NAME_SLOTS and slot not in self.parts:
                    near = get_close_matches(slot, [*self.parts, *NAME_SLOTS], n=1)
                    hint = f"did you mean {{{near[0]}}}?" if near else f"add its words as prompts.parts.{slot}"
                    raise ValueError(
                        f"prompts.templates: found the slot {{{slot}}}, expected one of prompts.parts; {hint}"
                    )
            used |= set(slots)
        for slot in self.parts:
            if slot in NAME_SLOTS or slot not in used:
                raise ValueError(f"prompts.parts: found {slot!r}, expected a slot that a template uses; remove it")
            if slot == TOKEN_SLOT and self.style_token is not None:
                raise ValueError(f"prompts.parts: found {slot!r}, which is the style token's slot; rename it")
            if slot in BASE_SCHEMA.names:
                raise ValueError(
                    f"prompts.parts: found the slot {slot!r}, expected another name than a column of the prompt table "
                    f"({', '.join(BASE_SCHEMA.names)}); rename it"
                )
        return self

    @cached_property
    def wordings(self) -> Wordings:
        token = {} if self.style_token is None else {TOKEN_SLOT: ("",)}  # its word is filled in for each class
        return Wordings.of(self.texts, {**self.parts, **token})

    @property
    def texts(self) -> tuple[str, ...]:
        """The templates in force."""
        if self.kind == "name":
            return ("{name}",)
        return self.templates or builtin_templates()

    @property
    def slots(self) -> tuple[str, ...]:
        """The columns of words that the table has."""
        own = tuple(self.parts) if self.kind in ("name", "template") else PARTS
        return own if self.style_token is None else (*own, TOKEN_SLOT)

    @cached_property
    def token(self) -> StyleToken | None:
        """The learned token, if there is one. Raises ModelError."""
        return None if self.style_token is None else open_style_token(self.style_token)

    @property
    def num_styled(self) -> int:
        """Prompts of a class that have a style."""
        share = {"sd": 1.0, "cd+sd": self.style_share}.get(self.kind, 0.0)
        return round(share * (self.per_class or 0))


@dataclass(frozen=True)
class Sources:
    """Where words come from beside the recipe: a lexicon always, a language model and an embedding where there are."""

    lexicon: Lexicon
    llm: Llm | None = None
    embed: Embed | None = None
    num_threads: int = 1  # classes that are drawn at a time; more than one pays where a language model is waited for


@dataclass(frozen=True)
class Drawn:
    """The prompts of one class, and what a language model said in vain, by reason."""

    prompts: list[Prompt]
    dropped: Counter[str]


def _check_list(words: Sequence[str], where: str) -> None:
    if not words:
        raise ValueError(f"{where}: found an empty list, expected at least one text")
    for index, word in enumerate(words):
        check_text(word, where)
        if word in words[:index]:
            raise ValueError(f"{where}: found {quoted(word, 60)} twice, expected distinct texts; remove one")


def draw_prompts(
    one: Class, meaning: str | None, spec: PromptSpec, seed: int, sources: Sources, place: int = 0
) -> Drawn:
    """The prompts of one class, the `place`-th of the run: styles go on where the class before left off.

    Raises ValueError if there are fewer distinct ones than asked for.
    """
    where = f"prompts of class {one.id} ({one.name})"
    name = one.name if meaning is None else meaning
    dropped: Counter[str] = Counter()
    prompts: list[Prompt] = []
    for kind, plain in _wordings(one, meaning, spec, seed, sources, place, dropped):
        wording = _in_style(plain, one, spec)
        text = check_text(wording.text(name), where)
        prompts.append(
            Prompt(one.id, len(prompts), one.name, meaning, kind, wording.form, text, spec.negative, wording.words)
        )
    return Drawn(prompts, dropped)


def _in_style(plain: Wording, one: Class, spec: PromptSpec) -> Wording:
    """The same with the word of the style token, if there is one."""
    if spec.token is None:
        return plain
    has_slot = TOKEN_SLOT in slots_of(plain.form)
    form = plain.form if has_slot else spec.style_form.replace("{prompt}", plain.form)
    return Wording(form, {**plain.words, TOKEN_SLOT: spec.token.word_of(one.name, one.id)})


def _wordings(
    one: Class,
    meaning: str | None,
    spec: PromptSpec,
    seed: int,
    sources: Sources,
    place: int,
    dropped: Counter[str],
) -> Sequence[tuple[str, Wording]]:
    lexicon, llm, count = sources.lexicon, sources.llm, spec.per_class or 0
    if spec.kind in ("name", "template"):
        return [(spec.kind, wording) for wording in _fill_templates(one, meaning, spec, seed)]
    if spec.kind == "caption":
        captions = draw_captions(one, meaning, count, seed, lexicon, llm, spec.captions, dropped)
        return [("caption", wording) for wording in captions]
    contexts = draw_contexts(one, meaning, count, seed, lexicon, llm, spec.contexts, sources.embed, dropped)
    styled = spec.num_styled
    first = place * styled
    return mix(contexts[styled:], add_styles(one, meaning, contexts[:styled], styled, first, seed, lexicon))


def _fill_templates(one: Class, meaning: str | None, spec: PromptSpec, seed: int) -> list[Wording]:
    available = spec.wordings.num_combinations
    if spec.per_class is None and available > MAX_PER_CLASS:
        raise ValueError(
            f"prompts: found {available} combinations a class, expected at most {MAX_PER_CLASS}; set prompts.per_class"
        )
    wanted = available if spec.per_class is None else spec.per_class
    name, count = one.name if meaning is None else meaning, wanted
    while True:
        # two combinations may read the same: "a {x}" with "b c", "a b {x}" with "c"
        drawn: dict[str, Wording] = {}
        for template, words in spec.wordings.draw(seed, one.id, count):
            wording = Wording(template, words)
            drawn.setdefault(wording.text(name), wording)
        if len(drawn) >= wanted or spec.per_class is None:
            return list(islice(drawn.values(), wanted))
        if count >= available:
            raise ValueError(
                f"prompts of class {one.id} ({one.name}): found {len(drawn)} distinct texts, expected {wanted}; add "
                "templates or words, or lower prompts.per_class"
            )
        count = min(2 * count, available)


def count_prompts(classes: Sequence[Class], spec: PromptSpec, seed: int) -> dict[int, int]:
    """Class id -> prompts it will have. Asks no model: only names and templates are drawn for it."""
    if spec.file is not None:
        table = PromptTable.load(file_path(spec.file))
        table.check_classes(classes)
        return table.num_per_class()
    if spec.per_class is not None:
        return dict.fromkeys((one.id for one in classes), spec.per_class)
    return {one.id: len(_fill_templates(one, None, spec, seed)) for one in classes}


# all classes


def draw_table(
    classes: Sequence[Class],
    meanings: Mapping[int, str],
    spec: PromptSpec,
    seed: int,
    sources: Sources,
    path: Path,
    on_class: Callable[[], None] = lambda: None,
) -> Counter[str]:
    """Draw the prompts of all classes into prompts.parquet, all of it or nothing; returns what was said in vain, by
    reason.

    `meanings` is class id -> phrase; `on_class` hears of every class that is drawn. Raises ValueError in one line that
    names the classes without enough prompts, after all others were tried.
    """
    jobs = [
        partial(draw_prompts, one, meanings.get(one.id), spec, seed, sources, place)
        for place, one in enumerate(sorted(classes, key=lambda one: one.id))
    ]
    dropped: Counter[str] = Counter()

    def prompts() -> Iterator[Prompt]:
        failed: list[str] = []
        for drawn in _in_order(jobs, sources.num_threads):
            if isinstance(drawn, ValueError):
                failed.append(str(drawn))
                continue
            on_class()
            dropped.update(drawn.dropped)
            yield from drawn.prompts
        if failed:
            more = f"; and {len(failed) - MAX_LISTED} more classes" if len(failed) > MAX_LISTED else ""
            raise ValueError("; ".join(failed[:MAX_LISTED]) + more)

    write_table(prompts(), spec.slots, path)
    return dropped


def _in_order(jobs: Sequence[Callable[[], Drawn]], num_threads: int) -> Iterator[Drawn | ValueError]:
    """What each job gives, in order; with threads, a few jobs are ahead of the one that is waited for."""

    def attempt(job: Callable[[], Drawn]) -> Drawn | ValueError:
        try:
            return job()
        except LlmError:  # it holds for every class
            raise
        except ValueError as error:  # the other classes go on; the caller raises them all together
            return error

    if num_threads == 1:
        yield from map(attempt, jobs)
        return
    left = iter(jobs)
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="prompts")
    try:
        ahead: list[Future[Drawn | ValueError]] = []
        ahead += [pool.submit(attempt, job) for job in islice(left, 2 * num_threads)]
        while ahead:
            # an ask has deadlines of its own; waiting in small steps lets Ctrl-C through
            while not wait(ahead[:1], timeout=0.5).done:
                pass
            yield ahead.pop(0).result(timeout=0)
            ahead += [pool.submit(attempt, job) for job in islice(left, 1)]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)

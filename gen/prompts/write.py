"""From class names to meanings to prompts: all that happens before the first image.

In: a recipe and its classes. Out: what was chosen and drawn. On disk, in a folder of the caller's:

    meanings.jsonl    one line a class: the phrase that says which sense is meant, and how sure the choice is
    prompts.parquet   every prompt of every class

A recipe that names a finished table (`prompts.file`) gets a copy of it and chooses nothing.
"""

import contextlib
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cluster.process.exit import Draining
from cluster.process.stop_flag import StopFlag
from cluster.waiting import waiting
from gen.llm.ask import Llm, LlmUse, open_llm
from gen.llm.spec import LlmSpec
from gen.model.clip import Clip, ClipSpec
from gen.model.folder import ModelError, open_model
from gen.model.style_token import TOKENIZERS, StyleToken, open_style_token, spelled, tokens_of
from gen.prompts.diversity import CLIP_TOKENS, CountTokens, Diversity, measure_diversity
from gen.prompts.kinds import with_asked_kinds
from gen.prompts.meanings import Meaning, MeaningSpec, bare_names, choose_meanings, write_meanings
from gen.prompts.prompts import PromptSpec, Sources, draw_table
from gen.prompts.table import PromptTable
from gen.wording.contexts import Embed
from gen.wording.lexicon import Lexicon, load_lexicon
from shards.disk.address import file_path
from shards.disk.amounts import time_text
from shards.disk.home import home
from shards.disk.safe_text import quoted
from shards.labels.classes import Class, ClassSpec, Kind, whole_list
from shards.labels.imagenet import is_wordnet_id

MEANINGS = "meanings.jsonl"
PROMPTS = "prompts.parquet"
MAX_TOKENS = 512  # what diffusers gives a long text encoder; some tokenizers know no limit of their own

Say = Callable[[str], None]


class TextSettings(Protocol):
    """The part of a recipe that decides the texts of a run (`gen.run.recipe.Recipe` has all of it)."""

    @property
    def seed(self) -> int: ...
    @property
    def classes(self) -> ClassSpec: ...
    @property
    def meanings(self) -> MeaningSpec: ...
    @property
    def llm(self) -> LlmSpec: ...
    @property
    def prompts(self) -> PromptSpec: ...


@dataclass(frozen=True)
class Written:
    """What `write_prompts` chose. `meanings` is None where prompts came from a file, `use` where no language model was
    asked."""

    meanings: list[Meaning] | None
    use: LlmUse | None = None
    dropped: Counter[str] = field(default_factory=Counter)  # what a language model said in vain, by reason
    kinds: Mapping[int, Kind] = field(default_factory=dict)  # class id -> kind, of the classes whose kind is told

    def sentences(self) -> list[str]:
        """What was asked of a language model and what came of it."""
        if self.use is None:
            return []
        use = self.use
        line = (
            f"language model: {use.asked:,} asked, {use.cached:,} known from before, {use.answered:,} answered in "
            f"{use.calls:,} calls, {use.tokens_in:,} tokens in, {use.tokens_out:,} out"
        )
        lost = [f"{times:,} {reason}" for reason, times in sorted({**use.failed, **self.dropped}.items()) if times]
        return [line] + ([f"not used: {', '.join(lost)}"] if lost else [])


def write_prompts(
    recipe: TextSettings, classes: Sequence[Class], folder: Path, say: Say, stop: StopFlag | None = None
) -> Written:
    """Write both files. `say` hears in one line what takes long. Raises ValueError in one line, Draining on a stop."""
    spec = recipe.prompts
    if spec.file is not None:
        file = file_path(spec.file)
        PromptTable.load(file).check_classes(classes)
        shutil.copyfile(file, folder / PROMPTS)
        return Written(None)
    lexicon = load_lexicon(spec.lexicon)
    _say_of_bare_names(recipe, classes, say)
    with _opened(recipe.llm, stop) as llm:
        meanings = _choose(recipe, classes, lexicon, llm, say, stop)
        write_meanings(meanings, folder / MEANINGS)
        phrases = {meaning.class_id: meaning.phrase for meaning in meanings if meaning.phrase is not None}
        _check_names(classes, phrases, say)
        if llm is not None:
            classes = with_asked_kinds(classes, phrases, lexicon, llm, recipe.seed)
        embed = None if llm is None or recipe.meanings.clip is None else _text_embedding(recipe.meanings.clip)
        sources = Sources(lexicon, llm, embed, 1 if llm is None else recipe.llm.max_in_flight)
        progress = _Progress(len(classes), stop)
        with waiting(progress.line):
            dropped = draw_table(classes, phrases, spec, recipe.seed, sources, folder / PROMPTS, progress.one_more)
        kinds = {one.id: one.kind for one in classes if one.kind is not None}
        return Written(meanings, None if llm is None else llm.use, dropped, kinds)


def _say_of_bare_names(recipe: TextSettings, classes: Sequence[Class], say: Say) -> None:
    if (line := bare_names(recipe.meanings, classes, recipe.llm.provider != "offline")) is not None:
        say(f"meanings: {line}")


def _check_names(classes: Sequence[Class], phrases: Mapping[int, str], say: Say) -> None:
    """Raises ValueError for a WordNet id that prompts would say, and tells of numbers."""
    open_ones = [one for one in classes if one.id not in phrases]
    ids = [one.name for one in open_ones if is_wordnet_id(one.name)]
    if ids:
        raise ValueError(
            f"classes: found the WordNet id {ids[0]} for a name ({len(ids):,} such), which no table here knows, "
            "expected a name; give a .csv list with name and wordnet_id, or its meaning (meanings.given)"
        )
    numbers = [one.name for one in open_ones if one.name.isdecimal()]
    if numbers:
        say(
            f"classes: prompts will say a number for {len(numbers):,} of {len(classes):,} names, such as "
            f"{quoted(f'a photo of {numbers[0]}', 60)}; give a list with names (classes.source), or their meanings "
            "(meanings.given)"
        )


def _choose(
    recipe: TextSettings,
    classes: Sequence[Class],
    lexicon: Lexicon,
    llm: Llm | None,
    say: Say,
    stop: StopFlag | None,
) -> list[Meaning]:
    looked: tuple[int, int] | None = None  # real images looked at, and how many there are at most

    def on_progress(done: int, most: int) -> None:
        nonlocal looked
        _heed(stop)
        looked = done, most

    def line() -> str:
        if looked is None:
            return f"choosing meanings of {len(classes):,} names ({recipe.meanings.choose})"
        return f"choosing meanings: looked at {looked[0]:,} of at most {looked[1]:,} real images"

    with waiting(line):
        among = classes if recipe.meanings.choose == "none" else whole_list(recipe.classes, classes)
        meanings = choose_meanings(classes, recipe.meanings, lexicon, llm, recipe.seed, on_progress, among)
    unknown = sum(meaning.source == "no_candidates" for meaning in meanings)
    if unknown:
        say(
            f"meanings: nobody knows a sense of {unknown:,} of {len(meanings):,} names; ask a language model "
            "(llm.provider), install WordNet (apt install wordnet-base), or write phrases by hand (meanings.overrides)"
        )
    unseen = sum(meaning.source == "no_real_images" for meaning in meanings)
    if unseen and recipe.meanings.real is not None:
        say(
            f"meanings: {unseen:,} of {len(meanings):,} names have several senses and no real image: they stay bare; "
            "put pictures of theirs beside the others (meanings.real), or write phrases by hand (meanings.overrides)"
        )
    return meanings


def meanings_only(
    recipe: TextSettings, classes: Sequence[Class], say: Say, stop: StopFlag | None = None
) -> list[Meaning]:
    """The meanings that `write_prompts` would choose, and nothing more."""
    lexicon = load_lexicon(recipe.prompts.lexicon)
    _say_of_bare_names(recipe, classes, say)
    with _opened(recipe.llm, stop) as llm:
        return _choose(recipe, classes, lexicon, llm, say, stop)


@contextlib.contextmanager
def _opened(spec: LlmSpec, stop: StopFlag | None) -> Iterator[Llm | None]:
    """`open_llm`, with a word while it opens: a local model takes minutes to load."""
    with contextlib.ExitStack() as owned:
        with waiting(f"opening the language model {spec.model or ''}".rstrip()):
            llm = owned.enter_context(open_llm(spec, stop))
        yield llm


class GeneratorSettings(Protocol):
    """Which generator will read the prompts (`gen.sampler.spec.SamplerSpec` has all of it)."""

    @property
    def model(self) -> str: ...
    @property
    def revision(self) -> str | None: ...
    @property
    def variant(self) -> str | None: ...
    @property
    def style_token(self) -> str | None: ...


def measure_prompts(
    table: PromptTable, seed: int, clip: ClipSpec | None, generator: GeneratorSettings, say: Say
) -> Diversity:
    """How much the prompts of a table differ, and what the generator will not see of them.

    Lengths are in words where the generator is not on this machine, and prompts are compared by their words where
    there is no CLIP.
    """
    try:
        folder = open_model(generator.model, generator.revision, generator.variant, home())
    except ModelError as error:
        say(f"lengths are in words, not tokens: {error}")
        count_tokens, limit = None, CLIP_TOKENS
    else:
        token = None if generator.style_token is None else open_style_token(generator.style_token)
        count_tokens, limit = token_counter(folder.path, token)
    embed = None if clip is None else _text_embedding(clip)
    return measure_diversity(table, seed=seed, count_tokens=count_tokens, limit=limit, embed=embed)


def token_counter(model: Path, token: StyleToken | None = None) -> tuple[CountTokens, int]:
    """Of the text encoder that reads most: SD3 and FLUX have a long one beside CLIP. With a style token, of the
    shortest that has its rows: what is cut there is the token, for it stands at the end of most prompts."""
    from transformers import AutoTokenizer

    names = None if token is None else {TOKENIZERS[encoder] for encoder in token.told.widths}
    folders = sorted(path for path in model.glob("tokenizer*") if path.is_dir() and (not names or path.name in names))
    loaded = [AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False) for path in folders]
    lengths = [min(tokenizer.model_max_length, MAX_TOKENS) for tokenizer in loaded]
    limit = max(lengths) if token is None else min(lengths)
    chosen = loaded[lengths.index(limit)]
    if token is not None:
        chosen.add_tokens([part for one in token.told.words for part in tokens_of(one.word, token.told.vectors)])

    def count_tokens(texts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in chosen(spelled(chosen, texts), verbose=False)["input_ids"]]  # it warns of long ones

    return count_tokens, limit


def _text_embedding(spec: ClipSpec) -> Embed:
    """CLIP's vectors of texts; one caller at a time, since tokenizers are not made for several."""
    clip = Clip.load(spec)
    lock = threading.Lock()

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        with lock:
            return clip.embed_texts(texts)

    return embed


class _Progress:
    """How many of the classes have their prompts, and what time is left at this rate."""

    def __init__(self, total: int, stop: StopFlag | None) -> None:
        self._total, self._stop, self._done, self._started = total, stop, 0, time.monotonic()

    def one_more(self) -> None:
        """To be called for every class. Raises Draining on a stop."""
        _heed(self._stop)
        self._done += 1

    def line(self) -> str:
        """``"drawing prompts: 120 of 1,000 classes, about 42 s left"``."""
        text = f"drawing prompts: {self._done:,} of {self._total:,} classes"
        if not self._done:
            return text
        left_s = (time.monotonic() - self._started) / self._done * (self._total - self._done)
        return f"{text}, about {time_text(left_s)} left"


def _heed(stop: StopFlag | None) -> None:
    if stop is not None and stop.requested:
        raise Draining(f"stopped on request ({stop.reason})")

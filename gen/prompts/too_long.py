"""Prompts that are longer than the generator's text encoder reads, told before any image is made.

In: a recipe, its classes, the folder of its model. Out: a `Length`, and a line for people. On disk: nothing; the
model's tokenizer is read. A sample of prompts is drawn for it, as the run would draw them where words come from a
lexicon or a file; with a language model nobody knows them before it was asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from gen.model.style_token import StyleToken
from gen.prompts.meanings import MeaningSpec, given_meanings
from gen.prompts.prompts import PromptSpec, Sources, draw_prompts
from gen.prompts.table import PromptTable
from gen.prompts.write import TextSettings, token_counter
from gen.wording.lexicon import load_lexicon
from shards.disk.address import file_path
from shards.labels.classes import Class

NUM_CLASSES = 20  # that are looked at
NUM_PROMPTS = 20  # of each
T = TypeVar("T")


@dataclass(frozen=True)
class Length:
    """How many of the prompts that were looked at are cut."""

    num_cut: int
    num_seen: int
    limit: int  # tokens that the text encoder reads, the marks of beginning and end included

    @property
    def line(self) -> str | None:
        """For people; None if no prompt is cut."""
        if not self.num_cut:
            return None
        return (
            f"{self.num_cut:,} of {self.num_seen:,} prompts looked at are longer than the {self.limit} tokens that the "
            "model's text encoder reads, so their ends have no effect; set prompts.kind=template or a shorter "
            "prompts.lexicon (`sixfold prompts` shows what is lost)"
        )


def length_of(recipe: TextSettings, classes: Sequence[Class], model: Path) -> Length | None:
    """Of the recipe's prompts; None where only a language model knows them. Raises ValueError as drawing them does."""
    if (
        recipe.prompts.file is None
        and recipe.llm.provider != "offline"
        and recipe.prompts.kind not in ("name", "template")
    ):
        return None
    texts = _sample(recipe.prompts, recipe.meanings, recipe.seed, _spread(classes, NUM_CLASSES))
    return _measure(texts, model, recipe.prompts.token)


def length_of_kind(spec: PromptSpec, classes: Sequence[Class], model: Path) -> Length:
    """Of prompts of this spec, with bare names."""
    return _measure(_sample(spec, MeaningSpec(), 0, _spread(classes, NUM_CLASSES)), model)


def _sample(spec: PromptSpec, meanings: MeaningSpec, seed: int, classes: Sequence[Class]) -> list[str]:
    if spec.file is not None:
        table = PromptTable.load(file_path(spec.file))
        ids = _spread(list(table.num_per_class()), NUM_CLASSES)
        return [text for class_id in ids for text in _spread(table.of_class(class_id, "text"), NUM_PROMPTS)]
    few = spec.model_copy(update={"per_class": spec.per_class and min(spec.per_class, NUM_PROMPTS)})
    phrases = given_meanings(classes, meanings) if meanings.choose != "none" else {}
    listed = {one.id: one.meaning for one in classes if one.meaning} | phrases
    sources = Sources(load_lexicon(spec.lexicon))
    drawn = [
        draw_prompts(one, listed.get(one.id), few, seed, sources, place).prompts for place, one in enumerate(classes)
    ]
    return [prompt.text for prompts in drawn for prompt in _spread(prompts, NUM_PROMPTS)]


def _measure(texts: Sequence[str], model: Path, token: StyleToken | None = None) -> Length:
    count_tokens, limit = token_counter(model, token)
    return Length(sum(length > limit for length in count_tokens(texts)), len(texts), limit)


def _spread(items: Sequence[T], most: int) -> list[T]:
    """At most so many of them, from all over the list."""
    if len(items) <= most:
        return list(items)
    return [items[place * len(items) // most] for place in range(most)]

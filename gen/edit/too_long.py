"""Texts of edits that are longer than what reads them, told before any edit is made: in most forms the attribute stands
at their end, and an end that is cut off has no effect.

In: a recipe, the prompts and attributes that were drawn for it. Out: a line for people; or a ValueError for texts that
the judge cannot tell apart. On disk: nothing; tokenizers are read, and for the judge its CLIP is loaded.

Of each class and kind of attribute the longest text is looked at, up to its attribute: what comes behind may be cut.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gen.edit.attributes.attribute import Attribute
from gen.edit.attributes.draw import ClassAttributes
from gen.edit.editors.spec import CascadeSpec, InstructSpec, OwnSpec, base_folder, pipeline_folder
from gen.edit.recipe import AttributeEditSpec, EditRecipe
from gen.model.clip import Clip
from gen.model.style_token import StyleToken
from gen.prompts.table import PromptTable
from gen.prompts.write import token_counter
from gen.sampler.spec import check_sampler
from shards.disk.safe_text import quoted

CountTokens = Callable[[Sequence[str]], Sequence[int]]
NUM_LONGEST = 4  # prompts of a class, and attributes, by characters: among them are the longest by tokens
WHAT_TO_DO = "take shorter prompts, or set edit.form so that {attribute} stands before {prompt}"
SLOT = "{attribute}"


@dataclass(frozen=True)
class Longest:
    """The text of a class whose attribute ends last."""

    class_name: str
    text: str  # up to the end of its attribute
    num_tokens: int


def cut_line(recipe: EditRecipe, prompts: PromptTable, attributes: Sequence[ClassAttributes]) -> str | None:
    """A line if some attributes are not read to their ends by what makes the edits; None if all are."""
    edit = recipe.edit
    if not isinstance(edit, AttributeEditSpec):
        return None
    for folder, token in _readers(recipe):
        count_tokens, limit = token_counter(folder, token)
        found = longest_texts(edit, edit.words, prompts, attributes, count_tokens)
        if cut := [one for one in found if one.num_tokens > limit]:
            worst = max(cut, key=lambda one: one.num_tokens)
            return (
                f"the attribute is cut off in the longest texts of {len({one.class_name for one in cut}):,} classes, "
                f"such as {quoted(worst.text, 200)}: {worst.num_tokens} tokens, of which the text encoder reads "
                f"{limit}; {WHAT_TO_DO}"
            )
    return None


def check_judged_texts(edit: AttributeEditSpec, prompts: PromptTable, attributes: Sequence[ClassAttributes]) -> None:
    """Raises ValueError if a CLIP judge would not read an attribute to its end: then it cannot tell it from others."""
    if edit.judge.clip is None:
        return
    clip = Clip.load(edit.judge.clip.model_copy(update={"device": "cpu"}))
    found = longest_texts(edit, lambda one: one.name, prompts, attributes, clip.num_tokens)
    worst = max(found, key=lambda one: one.num_tokens)
    if worst.num_tokens > clip.max_tokens:
        raise ValueError(
            f"edit.judge.clip: found {worst.num_tokens} tokens in {quoted(worst.text, 200)}, expected at most "
            f"{clip.max_tokens}, for its end is not read and the attribute stands there; {WHAT_TO_DO}"
        )


def longest_texts(
    edit: AttributeEditSpec,
    words_of: Callable[[Attribute], str],
    prompts: PromptTable,
    attributes: Sequence[ClassAttributes],
    count_tokens: CountTokens,
) -> list[Longest]:
    """Of each class and kind of attribute the text whose attribute ends last."""
    found = []
    for of in attributes:
        name = prompts.prompt(of.class_id, 0).class_name
        longest = _longest(prompts.of_class(of.class_id, "text"))
        for kind in edit.attributes.kinds:
            words = _longest([words_of(one) for cell in of.cells for one in cell if one.kind == kind])
            begin, slot, _ = edit.form.of(kind).partition(SLOT)
            texts = [(begin + slot).format(prompt=prompt, attribute=one) for prompt in longest for one in words]
            counts = count_tokens(texts)
            place = counts.index(max(counts))
            found.append(Longest(name, texts[place], counts[place]))
    return found


def _longest(texts: Sequence[str]) -> list[str]:
    return sorted(set(texts), key=lambda text: (-len(text), text))[:NUM_LONGEST]


def _readers(recipe: EditRecipe) -> list[tuple[Path, StyleToken | None]]:
    """The folders of the pipelines that read the texts of edits, with the style token that they know. An instruction
    has no prompt in it."""
    assert isinstance(recipe.edit, AttributeEditSpec)
    editor = recipe.edit.editor
    if isinstance(editor, OwnSpec):
        return [(check_sampler(recipe.sampler).path, recipe.prompts.token)]
    if isinstance(editor, InstructSpec):
        return []
    bases = [base_folder(editor)] if isinstance(editor, CascadeSpec) else []
    return [(folder.path, None) for folder in (pipeline_folder(editor), *bases)]

"""Strangers: prompts of a table that put a class into a place where its kind is not at home.

In: a prompt table, the classes of its recipe. Out: a `Strangers`, and lines for a terminal. On disk: nothing.

A prompt's place is its background; where it has none, as a caption of a language model or a template, all that it says
beside the name.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from gen.names.display_name import plain_words
from gen.names.kind import kind_of
from gen.prompts.diversity import share
from gen.prompts.table import PromptTable
from gen.wording.places import foreign_place, places_in
from shards.disk.safe_text import quoted
from shards.labels.classes import Class, Kind

MAX_SHOWN = 5  # classes and examples in the lines


@dataclass
class Strangers:
    """How many prompts there are of each sort."""

    num_prompts: int = 0
    num_placed: int = 0  # prompts that name a place which places.yaml knows
    by_class: Counter[int] = field(default_factory=Counter)  # class id -> prompts in a foreign place
    examples: dict[int, tuple[str, str, str]] = field(default_factory=dict)  # class id -> its kind, a place, a text

    @property
    def num_foreign(self) -> int:
        return self.by_class.total()


def find_strangers(
    table: PromptTable, classes: Sequence[Class], kinds: Mapping[int, Kind] = MappingProxyType({})
) -> Strangers:
    """Look at every prompt of these classes; all of them must be in the table.

    `kinds` is class id -> kind, where somebody told it; all others are looked up.
    """
    found = Strangers()
    for one in classes:
        meanings, texts, backgrounds = (table.of_class(one.id, of) for of in ("meaning", "text", "background"))
        kind = kinds.get(one.id) or kind_of(one, meanings[0])
        names = [plain_words(name) for name in (meanings[0], one.name) if name]
        for text, background in zip(texts, backgrounds, strict=True):
            said = background if background is not None else _without(plain_words(text), names)
            found.num_prompts += 1
            found.num_placed += bool(places_in(said))
            if (place := foreign_place(kind, said)) is not None:
                found.by_class[one.id] += 1
                found.examples.setdefault(one.id, (kind, place, text))
    return found


def _without(text: str, names: Sequence[str]) -> str:
    for name in filter(None, names):
        text = text.replace(name, " ")
    return text


def place_lines(found: Strangers) -> list[str]:
    """The count, and the classes with most of them."""
    lines = [
        f"class in a place of another kind: {share(found.num_foreign, found.num_prompts)}; "
        f"{found.num_placed:,} name a place that is known"
    ]
    for class_id, count in found.by_class.most_common(MAX_SHOWN):
        kind, place, text = found.examples[class_id]
        lines.append(f"  class {class_id} ({kind}), {count:,} times, such as {place}: {quoted(text, 90)}")
    return lines

"""The lexicon: words for the parts of a prompt, by kind of class and place, and the forms that they fill.

In: "general", "sandbox" or the path of a file of one's own. Out: a `Lexicon`. On disk: gen/wording/lexicon.yaml, whose
first comment explains the format, and sandbox/lexicon.yaml.
"""

import unicodedata
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from cluster.recipes.load import load_recipe
from gen.wording.parts import NAME_SLOTS, PARTS
from gen.wording.templates import slots_of
from shards.disk.address import file_path
from shards.disk.home import home
from shards.disk.safe_text import quoted
from shards.labels.classes import KINDS, Kind

PlaceKind = Literal["indoor", "outdoor", "any"]
PLACES: tuple[PlaceKind, ...] = get_args(PlaceKind)
# Parts that have groups of words; relation and style have lists of their own, captions are whole sentences.
DRAWN_PARTS = tuple(part for part in PARTS if part not in ("relation", "caption", "style"))
# Parts that cannot be seen indoors; a form with one of them has no light that speaks of sun or moon.
SKY_PARTS = ("weather", "time")
MAX_WORD_CHARS = 120

SHIPPED = {"general": Path(__file__).parent / "lexicon.yaml", "sandbox": home() / "sandbox" / "lexicon.yaml"}


def _check_word(word: str) -> str:
    if not word or word != word.strip() or len(word) > MAX_WORD_CHARS:
        raise ValueError(f"expected a phrase of 1 to {MAX_WORD_CHARS} characters without outer blanks")
    if any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in word):
        raise ValueError("expected one line without control characters")
    return word


def _check_distinct(words: tuple[str, ...]) -> tuple[str, ...]:
    for index, word in enumerate(words):
        if word in words[:index]:
            raise ValueError(f"{quoted(word, 60)} stands twice; remove one")
    return words


Words = Annotated[tuple[Annotated[str, AfterValidator(_check_word)], ...], AfterValidator(_check_distinct)]


class Form(BaseModel):
    """Two texts with the same slots: one for a photo, one with a style."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    photo: str = Field(
        description="text with slots, such as {subject}, {background}; says how a photo is called",
        examples=["a photo of {subject} {background}"],
    )
    styled: str = Field(description="the same slots and {style}", examples=["{style} of {subject} {background}"])

    @property
    def parts(self) -> tuple[str, ...]:
        """The slots of `photo`, without that of the name."""
        return tuple(slot for slot in slots_of(self.photo) if slot not in NAME_SLOTS)

    @model_validator(mode="after")
    def _both_say_the_same(self) -> "Form":
        unknown = set(self.parts) - set(DRAWN_PARTS)
        slots = set(slots_of(self.photo))
        if unknown or "background" not in slots or not slots & set(NAME_SLOTS):
            raise ValueError(
                f"found {quoted(self.photo, 80)}, expected {{subject}} or {{name}}, {{background}} and slots of: "
                f"{', '.join(DRAWN_PARTS)}"
            )
        if set(slots_of(self.styled)) != {"style", *slots}:
            raise ValueError(f"found {quoted(self.styled, 80)}, expected the slots of photo and {{style}}")
        return self


class Group(BaseModel):
    """Words of one part that fit the same classes and the same backgrounds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kinds: tuple[Kind, ...] = Field(KINDS, min_length=1, description="the kinds of class it is for")
    place: PlaceKind = Field("any", description="of a background: where it is; else: which backgrounds it goes with")
    words: Words = Field(min_length=1, description="phrases, each as it stands in a sentence")


class Lexicon(BaseModel):
    """A whole lexicon file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    forms: tuple[Form, ...] = Field(min_length=1, description="what prompts are made of, drawn in turn")
    plan_forms: tuple[Form, ...] = Field(
        (),
        description="what a language model's contexts are put into, the one with the most parts; empty = forms",
        examples=[[{"photo": "a photo of {subject}, {background}", "styled": "{style} of {subject}, {background}"}]],
    )
    parts: Mapping[str, tuple[Group, ...]] = Field(description="part -> groups of words")
    relations: Words = Field(min_length=1, description="how subject and background may stand to each other")
    styles: Words = Field(min_length=1, description="what else than a photo a picture may be")
    senses: Mapping[str, Words] = Field(
        default={},
        description="class name -> phrases, each one thing it may mean; a language model's stand in their place",
        examples=[{"crane": ["crane, the bird", "crane, the machine"]}],
    )

    @property
    def forms_of_plans(self) -> tuple[Form, ...]:
        """The forms for a language model's contexts."""
        return self.plan_forms or self.forms

    @property
    def tells_kinds(self) -> bool:
        """Whether any words are for some kinds of class only."""
        return any(set(group.kinds) != set(KINDS) for groups in self.parts.values() for group in groups)

    def words(self, part: str, kind: str, places: Collection[str] = PLACES) -> tuple[str, ...]:
        """The words of `part` for a kind of class, from the groups whose place is in `places`; may be empty."""
        groups = self.parts.get(part, ())
        fitting = (word for one in groups if kind in one.kinds and one.place in places for word in one.words)
        return tuple(dict.fromkeys(fitting))

    def choices(self, form: Form, kind: str, place: PlaceKind) -> dict[str, tuple[str, ...]]:
        """The words for each slot of `form` when the background is of `place`; a slot may have none."""
        under_the_sky = not set(SKY_PARTS).isdisjoint(form.parts)

        def places(part: str) -> Sequence[PlaceKind]:
            if part == "background":
                return (place,)
            return ("any",) if part == "light" and under_the_sky else (place, "any")

        return {part: self.words(part, kind, places(part)) for part in form.parts}

    @model_validator(mode="after")
    def _every_kind_has_words(self) -> "Lexicon":
        for part, groups in self.parts.items():
            if part not in DRAWN_PARTS:
                raise ValueError(f"found the part {quoted(part, 40)}, expected one of: {', '.join(DRAWN_PARTS)}")
            if part in SKY_PARTS and any(group.place != "outdoor" for group in groups):
                raise ValueError(f"found {part} that is not outdoor, expected place: outdoor")
        for forms in (self.forms, self.plan_forms):
            if len({form.photo for form in forms}) < len(forms):
                raise ValueError("found two forms with the same photo, expected distinct ones; remove one")
        for kind in KINDS:
            if not any(all(self.choices(form, kind, place).values()) for form in self.forms for place in PLACES):
                raise ValueError(f"found no form whose slots all have words for the kind {kind}; add some")
        return self


def load_lexicon(name_or_path: str) -> Lexicon:
    """A shipped lexicon by its name, or one's own by its path. Raises ValueError if it is missing or has a mistake."""
    path = SHIPPED.get(name_or_path, file_path(name_or_path))
    if not path.is_file():
        raise ValueError(f"{quoted(name_or_path, 80)}: found no such lexicon, expected {', '.join(SHIPPED)} or a file")
    return load_recipe(path, Lexicon)

"""The lexicon of attributes: backgrounds, colours and textures, feasible and infeasible, by kind of class or class.

In: "general", "sandbox" or the path of a file of one's own. Out: an `AttributeLexicon`. On disk: lexicon.yaml beside
this file, whose first comment explains the format, and sandbox/attributes.yaml.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from cluster.recipes.load import load_recipe
from gen.edit.attributes.attribute import (
    ATTRIBUTE_KINDS,
    AttributeKind,
    Rgb,
    check_description,
    check_name,
    name_key,
)
from gen.names.kind import kind_of
from shards.disk.address import file_path
from shards.disk.home import home
from shards.disk.regular import sha256_of
from shards.disk.safe_text import quoted
from shards.labels.classes import KINDS, Class, Kind

SHIPPED = {"general": Path(__file__).parent / "lexicon.yaml", "sandbox": home() / "sandbox" / "attributes.yaml"}
SIDES = {True: "feasible", False: "infeasible"}

Name = Annotated[str, AfterValidator(check_name)]
Description = Annotated[str, AfterValidator(check_description)]
Channel = Annotated[int, Field(ge=0, le=255)]
RgbField = tuple[Channel, Channel, Channel]


@dataclass(frozen=True)
class Entry:
    """One attribute as a lexicon has it."""

    name: str
    text: str
    rgb: Rgb | None = None


class WordGroup(BaseModel):
    """Backgrounds or textures that are of one side for the same classes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kinds: tuple[Kind, ...] = Field(KINDS, min_length=1, description="the kinds of class it is for")
    classes: tuple[str, ...] = Field(
        (), description="the classes it is for, by name, in place of all groups by kind", examples=[["sphynx"]]
    )
    words: Mapping[Name, Description] = Field(
        min_length=1, description="name -> what it looks like", examples=[{"wild meadow": "grass and seed heads"}]
    )
    rgb: Mapping[Name, RgbField] = Field(
        default={}, description="name -> RGB, 0..255, of what is even", examples=[{"kraft paper": [215, 180, 125]}]
    )

    @model_validator(mode="after")
    def _rgb_is_of_a_word(self) -> "WordGroup":
        if strange := self.rgb.keys() - self.words.keys():
            raise ValueError(f"rgb: found {quoted(min(strange), 60)}, expected a name of words")
        return self


class WordSides(BaseModel):
    """Both sides of one kind of attribute."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    feasible: tuple[WordGroup, ...] = Field((), description="what a camera could meet")
    infeasible: tuple[WordGroup, ...] = Field((), description="what no camera meets")


class ColourFamily(BaseModel):
    """Colours that look alike."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: Description = Field(description="what they look like", examples=["a warm brown"])
    colours: Mapping[Name, RgbField] = Field(
        min_length=1, description="name -> RGB, 0..255", examples=[{"fawn": [207, 175, 123]}]
    )


class ColourGroup(BaseModel):
    """Colours of the bank that are of one side for the same classes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kinds: tuple[Kind, ...] = Field(KINDS, min_length=1, description="the kinds of class it is for")
    classes: tuple[str, ...] = Field((), description="the classes it is for, by name, in place of all groups by kind")
    families: tuple[str, ...] = Field((), description="families of the bank", examples=[["browns"]])
    names: tuple[str, ...] = Field((), description="single colours of the bank", examples=[["fawn"]])


class ColourSides(BaseModel):
    """The bank of colours, and both sides."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bank: Mapping[str, ColourFamily] = Field(
        min_length=1,
        description="family -> colours",
        examples=[{"browns": {"text": "a warm brown", "colours": {"umber": [178, 100, 0]}}}],
    )
    feasible: tuple[ColourGroup, ...] = Field((), description="what a camera could meet")
    infeasible: tuple[ColourGroup, ...] = Field((), description="what no camera meets")

    @cached_property
    def by_name(self) -> Mapping[str, Entry]:
        """Name -> colour, the whole bank in its order."""
        return {
            name: Entry(name, family.text, rgb) for family in self.bank.values() for name, rgb in family.colours.items()
        }

    @model_validator(mode="after")
    def _colours_are_distinct(self) -> "ColourSides":
        seen: dict[object, str] = {}
        for family in self.bank.values():
            for name, rgb in family.colours.items():
                for same in (name_key(name), rgb):
                    if same in seen:
                        raise ValueError(f"found {quoted(name, 60)} beside {quoted(seen[same], 60)}, expected distinct")
                    seen[same] = name
        return self

    @model_validator(mode="after")
    def _groups_name_what_there_is(self) -> "ColourSides":
        names = self.by_name
        for group in (*self.feasible, *self.infeasible):
            strange = [*(set(group.families) - self.bank.keys()), *(set(group.names) - names.keys())]
            if strange:
                raise ValueError(f"found {quoted(min(strange), 60)}, expected a family or a colour of the bank")
            if not (group.families or group.names):
                raise ValueError("found a group of no colours, expected families or names")
        return self


class AttributeLexicon(BaseModel):
    """A whole lexicon file. A kind of attribute that it leaves out has no words."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    background: WordSides = Field(WordSides(), description="places around a subject")
    texture: WordSides = Field(WordSides(), description="surfaces of a subject")
    colour: ColourSides | None = Field(None, description="colours of a subject; null = none")

    def entries(self, kind: AttributeKind, feasible: bool, class_kind: Kind, class_name: str) -> tuple[Entry, ...]:
        """One side for a class, in the order of the file; may be empty.

        Groups that name the class count alone; without any, those for its kind. A name in two groups is given once.
        """
        groups = self._groups(kind, feasible)
        named = [one for one in groups if _is_named(class_name, one.classes)]
        fitting = named or [one for one in groups if not one.classes and class_kind in one.kinds]
        found: dict[str, Entry] = {}
        for group in fitting:
            for entry in self._entries_of(group):
                found.setdefault(name_key(entry.name), entry)
        return tuple(found.values())

    def _groups(self, kind: AttributeKind, feasible: bool) -> Sequence[WordGroup | ColourGroup]:
        sides = {"background": self.background, "texture": self.texture, "colour": self.colour}[kind]
        if sides is None:
            return ()
        return sides.feasible if feasible else sides.infeasible

    def _entries_of(self, group: WordGroup | ColourGroup) -> Iterator[Entry]:
        if isinstance(group, WordGroup):
            yield from (Entry(name, text, group.rgb.get(name)) for name, text in group.words.items())
        elif self.colour is not None:
            bank = self.colour.by_name
            families = [self.colour.bank[family].colours for family in group.families if family in self.colour.bank]
            names = [name for family in families for name in family] + list(group.names)
            yield from (bank[name] for name in names if name in bank)

    @model_validator(mode="after")
    def _sides_are_disjoint(self) -> "AttributeLexicon":
        for kind in ATTRIBUTE_KINDS:
            named = {name for side in SIDES for group in self._groups(kind, side) for name in group.classes}
            told = [*((one, "") for one in KINDS), *((kind_of(Class(0, one, None, 0)), one) for one in sorted(named))]
            for class_kind, class_name in told:
                feasible, infeasible = (self.entries(kind, side, class_kind, class_name) for side in SIDES)
                where = f"the class {quoted(class_name, 60)}" if class_name else f"the kind {class_kind}"
                check_disjoint(kind, [one.name for one in feasible], [one.name for one in infeasible], where)
        return self


def check_disjoint(kind: AttributeKind, feasible: Sequence[str], infeasible: Sequence[str], where: str) -> None:
    """Raises ValueError, with the first offender, if a name is on both sides; `where` says for whom."""
    ours = {name_key(name) for name in feasible}
    both = next((name for name in infeasible if name_key(name) in ours), None)
    if both is not None:
        raise ValueError(
            f"found the {kind} {quoted(both, 60)} on both sides for {where}, expected it to be feasible or infeasible; "
            "remove one"
        )


def load_attributes(name_or_path: str) -> AttributeLexicon:
    """A shipped lexicon by its name, or one's own by its path. Raises ValueError if it is missing or has a mistake."""
    path = SHIPPED.get(name_or_path, file_path(name_or_path))
    if not path.is_file():
        raise ValueError(f"{quoted(name_or_path, 80)}: found no such lexicon, expected {', '.join(SHIPPED)} or a file")
    return load_recipe(path, AttributeLexicon)


def attributes_content(name_or_path: str) -> str:
    """What a run depends on: the name of a shipped lexicon, else the hex sha256 of the file. Raises ValueError if it is
    missing."""
    if name_or_path in SHIPPED:
        return name_or_path
    load_attributes(name_or_path)
    return sha256_of(file_path(name_or_path))


def _is_named(class_name: str, names: Sequence[str]) -> bool:
    key = name_key(class_name)
    return any(name_key(name) == key for name in names)

"""The recipe of an edited data set: that of a generated one, with the pictures to begin with and what is done to them.

In: a YAML file and `key.sub=value` overrides. Out: `EditRecipe`; its identity, which is everything that decides what
the images are.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gen.edit.attributes.attribute import Attribute, AttributeKind, phrase
from gen.edit.attributes.lexicon import SIDES, attributes_content
from gen.edit.attributes.spec import AttributeSpec, Weights
from gen.edit.cells import SETTINGS, Cell, Settings, settings_of
from gen.edit.editors.spec import SETTABLE, CascadeSpec, EditorSpec, OwnSpec, content_of, told_of
from gen.edit.editors.spec import at_home as editor_at_home
from gen.edit.judge.judge import judge_digest
from gen.edit.judge.spec import JudgeSpec
from gen.edit.masks.spec import MaskSpec, mask_digest
from gen.edit.priors.table import Task
from gen.edit.sources import SourceSpec
from gen.run.recipe import Recipe, changes_of, identity
from gen.sampler.start import executed_steps
from gen.wording.templates import slots_of
from shards.disk.safe_text import quoted
from shards.stream.index_arrays import Index

ALPHA = 0.6
SHORTCUTS = ("guidance_interval", "reuse_every")  # they count shares of the whole way


class PerturbSpec(BaseModel):
    """A picture goes a part of the way to noise, and comes back through the generator."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["perturb"] = Field(description="image to image by strength")
    gamma: float = Field(
        ge=0,
        le=1,
        description="strength: floor(gamma x sampler.steps) steps are taken; 0 = the source's own pixels, 1 = as from "
        "noise",
        examples=[0.5],
    )
    fit: Literal["crop", "squash"] = Field(
        "crop", description="how a picture becomes a square: its centre, or all of it with both sides resized"
    )

    def at_home(self) -> "PerturbSpec":
        """It names no folder."""
        return self


class ByKind(BaseModel):
    """A number for each kind of attribute."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    background: float = Field(
        0.8, gt=0, le=1, description="share of the way to noise; 1 = nothing of the prior is left"
    )
    colour: float = Field(0.5, gt=0, le=1, description="likewise")
    texture: float = Field(0.5, gt=0, le=1, description="likewise")

    def of(self, kind: AttributeKind) -> float:
        """The one of a kind."""
        return {"background": self.background, "colour": self.colour, "texture": self.texture}[kind]


class Forms(BaseModel):
    """How a prompt says its attribute; {prompt} is the class's prompt, {attribute} the attribute's words."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    background: str = Field("{prompt} on {attribute}", description="of a background")
    colour: str = Field("{prompt}, {attribute}", description="of a colour")
    texture: str = Field("{prompt}, {attribute}", description="of a texture")

    @model_validator(mode="after")
    def _have_their_slots(self) -> "Forms":
        for name, form in self:
            if sorted(slots_of(form)) != ["attribute", "prompt"]:
                raise ValueError(
                    f"form.{name}: found {quoted(form, 80)}, expected the slots {{prompt}} and {{attribute}}, each once"
                )
        return self

    def of(self, kind: AttributeKind) -> str:
        """The one of a kind."""
        return {"background": self.background, "colour": self.colour, "texture": self.texture}[kind]


class AttributeEditSpec(BaseModel):
    """One attribute of a picture is altered: its background, or the colour or texture of its object."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["attribute"] = Field(description="a minimal edit: a mask, a prior, inpainting, paste-back, a judge")
    attributes: AttributeSpec = Field(default_factory=AttributeSpec)
    masks: MaskSpec
    prior: Literal["auto", "drawn", "none"] = Field(
        "auto",
        description="what the model begins with. auto: a place or a tint in the attribute's colour if it has one, else "
        "as drawn; drawn: a place or a texture that the model draws from the attribute's description; none: the "
        "picture itself",
    )
    alpha: float = Field(ALPHA, ge=0, le=1, description="of colour and texture: share of the tint inside the mask")
    strength: ByKind = Field(default_factory=ByKind)
    editor: EditorSpec = Field(OwnSpec(kind="own"), description="What changes the pixels, by `edit.editor.kind`.")
    table: Task | None = Field(
        None,
        description="strength, alpha, dilation, steps, guidance and ip_scale by kind and side as VariReal has them for "
        "these pictures (other: as gen/edit/priors/table.py says); null = by the fields here",
        examples=["pets"],
    )
    cells: tuple[Cell, ...] = Field(
        (), description="settings by kind and side; a later one wins, and all win over the table"
    )
    form: Forms = Field(default_factory=Forms)
    phrase: Literal["name", "plain"] = Field(
        "name", description="the attribute's words in a prompt: its name, or `name: description`"
    )
    paste: Literal["soft", "hard", "none"] = Field(
        "soft",
        description="how an object comes back over a new background: fading at its rim, or pixel by pixel. none: of "
        "no edit anything comes back, the whole picture is the editor's",
    )
    judge: JudgeSpec = Field(default_factory=JudgeSpec)
    fit: Literal["crop", "squash", "pad"] = Field(
        "crop",
        description="how a picture becomes a square: its centre; all of it with both sides resized; or all of it with "
        "black beside it, which is cut off again",
    )

    def at_home(self) -> "AttributeEditSpec":
        """The same with whole paths of folders, for workers of other working folders. Raises ModelError."""
        places = {"masks": self.masks.at_home(), "judge": self.judge.at_home(), "editor": editor_at_home(self.editor)}
        return self.model_copy(update=places)

    @model_validator(mode="after")
    def _settings_have_a_use(self) -> "AttributeEditSpec":
        line = next(self._without_use(), None)
        if line is not None:
            raise ValueError(line)
        return self

    def _without_use(self) -> Iterator[str]:
        """A line for each setting that would change nothing."""
        if self.table is not None:
            yield from self._beside_table(self.table)
        if "strength" not in SETTABLE[self.editor.kind]:
            for name, is_set in (
                ("prior", self.prior != "auto"),
                ("alpha", self.alpha != ALPHA),
                ("strength", self.strength != ByKind()),
                ("masks.dilate_px", self.masks.dilate_px > 0),
            ):
                if is_set:
                    yield f"{name}: found one with the editor {self.editor.kind}, which has no use for it; remove it"
        if self.attributes.weights != Weights():
            yield "attributes.weights: found other ones than the defaults, but no text here has weights; remove them"
        if self.attributes.source == "lexicon":
            yield from _set_without_use(
                self.attributes, ("per_class", "enough", "rounds"), "attributes", "source lexicon"
            )
        if self.judge.kind == "none":
            yield from _set_without_use(self.judge, ("threshold", "budget"), "judge", "kind none")
        if isinstance(self.editor, CascadeSpec) and self.editor.ip_adapter is None:
            yield from _set_without_use(self.editor, ("ip_scale",), "editor", "no ip_adapter")
        yield from self._cells_without_use()

    def usable(self, kind: AttributeKind) -> tuple[str, ...]:
        """The settings of a cell that count for edits of a kind."""
        editor = self.editor
        if isinstance(editor, CascadeSpec) and editor.ip_adapter is None and kind != "background":
            return ()  # text and edges alone make them: its own control_steps, control_guidance and control_scale
        return SETTABLE[editor.kind]

    def _beside_table(self, table: Task) -> Iterator[str]:
        editor = self.editor
        if editor.kind not in ("inpaint", "cascade"):
            yield (
                f"table: found {table} with the editor {editor.kind}, expected null; VariReal's settings are those of "
                "edit.editor.kind=inpaint or cascade"
            )
        if self.strength != ByKind() or self.alpha != ALPHA:
            yield f"table: found {table} beside strength or alpha, expected one of them; set what differs in edit.cells"
        for name in ("steps", "guidance", "ip_scale"):
            if getattr(editor, name, None) != _default(editor, name):
                yield (
                    f"editor.{name}: found {getattr(editor, name):g} beside the table {table}, which has its own, "
                    "expected one of them; set what differs in edit.cells"
                )
        if self.masks.dilate_px:
            yield (
                f"masks.dilate_px: found {self.masks.dilate_px} beside the table {table}, which has its own for "
                "backgrounds, expected 0; set what differs in edit.cells"
            )

    def _cells_without_use(self) -> Iterator[str]:
        kinds, sides = self.attributes.kinds, tuple(SIDES[one] for one in self.attributes.sides)
        for number, cell in enumerate(self.cells):
            usable = self.usable(cell.kind)
            has = f"it has {', '.join(usable)}" if usable else f"without an ip_adapter it has none for a {cell.kind}"
            for name in SETTINGS:
                if getattr(cell, name) is not None and name not in usable:
                    yield (
                        f"cells.{number}.{name}: found {getattr(cell, name):g} with the editor {self.editor.kind}, "
                        f"expected null; {has}"
                    )
            if cell.kind not in kinds:
                yield f"cells.{number}: found {cell.kind}, which is not edited, expected one of {', '.join(kinds)}"
            if cell.side is not None and cell.side not in sides:
                yield f"cells.{number}: found {cell.side}, which is not edited, expected {' or '.join(sides)}"

    def settings(self, kind: AttributeKind, feasible: bool, side_px: int) -> Settings:
        """Of the edits of a kind and side; `side_px` is that of the square."""
        plain = Settings(strength=self.strength.of(kind), alpha=self.alpha)
        return settings_of(plain, self.table, self.cells, kind, feasible, side_px)

    def words(self, attribute: Attribute) -> str:
        """As they stand in a prompt."""
        return attribute.name if self.phrase == "name" else phrase(attribute, self.phrase)

    def told(self) -> dict[str, Any]:
        """What each row says of the settings, as plain JSON; the words of prompts stand in its caption."""
        return {
            "kind": self.kind,
            "prior": self.prior,
            "alpha": self.alpha,
            "strength": self.strength.model_dump(),
            "table": self.table,
            "cells": [cell.model_dump(exclude_none=True) for cell in self.cells],
            "editor": told_of(self.editor),
            "paste": self.paste,
            "fit": self.fit,
        }


def _set_without_use(part: BaseModel, names: Sequence[str], where: str, beside: str) -> Iterator[str]:
    """A line for each of these fields that is not at its default."""
    for name in names:
        if (found := getattr(part, name)) != _default(part, name):
            yield f"{where}.{name}: found {found:g} with {beside}, which has no use for it; remove it"


def _default(spec: BaseModel, name: str) -> object:
    """Of a field; None where the model has no such field."""
    return type(spec).model_fields[name].default if name in type(spec).model_fields else None


EditSpec = Annotated[PerturbSpec | AttributeEditSpec, Field(discriminator="kind")]


class EditRecipe(Recipe):
    """Each class has as many images in 1x as it has source pictures: one edit of each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: SourceSpec
    edit: EditSpec = Field(description="What is done to each source picture, by `edit.kind`.")

    @model_validator(mode="after")
    def _sources_are_counted(self) -> "EditRecipe":
        if (self.classes.per_class, self.classes.total, self.classes.counts) != (None, None, None):
            raise ValueError(
                "classes: found a number of images, expected none: a class has as many images in 1x as it has source "
                "pictures; remove it, or set source.per_class"
            )
        return self

    @model_validator(mode="after")
    def _a_step_is_taken(self) -> "EditRecipe":
        for name, value, steps, hint in self._ways():
            if value and not executed_steps(steps, value):
                raise ValueError(
                    f"edit.{name}: found {value:g} of {steps} steps, which takes none; set at least "
                    f"{1 / steps:.3g}{hint}"
                )
        return self

    def _ways(self) -> Iterator[tuple[str, float, int, str]]:
        """Name, strength and steps of each way to noise, and a hint."""
        edit, steps = self.edit, self.sampler.steps
        if isinstance(edit, PerturbSpec):
            yield "gamma", edit.gamma, steps, ", or 0 for the source's own pixels"
        elif isinstance(edit.editor, OwnSpec) and not edit.cells:
            yield from ((f"strength.{kind}", edit.strength.of(kind), steps, "") for kind in edit.attributes.kinds)
        else:
            for kind in (one for one in edit.attributes.kinds if "strength" in edit.usable(one)):
                for feasible in edit.attributes.sides:
                    found = edit.settings(kind, feasible, 0)
                    whole = found.steps or (steps if isinstance(edit.editor, OwnSpec) else edit.editor.steps)
                    side = "feasible" if feasible else "infeasible"
                    yield f"cells, {side} {kind}: strength", found.strength, whole, ""

    @model_validator(mode="after")
    def _something_is_left_to_alter(self) -> "EditRecipe":
        edit = self.edit
        if (
            isinstance(edit, AttributeEditSpec)
            and "whole" in edit.masks.order
            and "background" in edit.attributes.kinds
        ):
            raise ValueError(
                "edit.masks.order: found whole beside a background, expected another way: of a picture that is all "
                "object no background is left"
            )
        return self

    @model_validator(mode="after")
    def _budget_can_be_spent(self) -> "EditRecipe":
        edit, draws = self.edit, self.shards.max_draws
        if isinstance(edit, AttributeEditSpec) and edit.judge.kind != "none" and edit.judge.budget > draws:
            raise ValueError(
                f"edit.judge.budget: found {edit.judge.budget} above shards.max_draws ({draws}), expected at most as "
                "many; raise shards.max_draws"
            )
        return self

    @model_validator(mode="after")
    def _what_is_pasted_has_its_size(self) -> "EditRecipe":
        spec = self.sampler
        if isinstance(self.edit, AttributeEditSpec) and spec.saved_px not in (None, spec.size_px):
            raise ValueError(
                f"sampler.saved_px: found {spec.saved_px}, expected null: the source's own pixels are pasted back, and "
                "they have the side of sampler.size_px"
            )
        return self

    @model_validator(mode="after")
    def _no_shortcut_counts_the_way(self) -> "EditRecipe":
        for name in SHORTCUTS:
            if getattr(self.sampler, name) is not None:
                raise ValueError(
                    f"sampler.{name}: found {getattr(self.sampler, name)}, expected null: it counts from noise on, and "
                    "an edit begins with a picture"
                )
        return self


def differences(begun: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A line for each difference between what `run.json` says and an identity of now; what moved is the same."""
    return changes_of(begun["identity"], now, begun.get("contents", {}), EditRecipe)


def edit_identity(recipe: EditRecipe, index: Index) -> dict[str, Any]:
    """What the images depend on, as plain JSON; the source stands here by its content, not by its path."""
    chosen: Mapping[str, Any] = identity(recipe)
    rest = {name: value for name, value in chosen["source"].items() if name != "set"}
    edit = chosen["edit"]
    if isinstance(recipe.edit, AttributeEditSpec):
        budget = recipe.edit.judge.budget
        lexicon = recipe.edit.attributes.lexicon
        edit = {
            **edit,
            "attributes": {**edit["attributes"], "lexicon": attributes_content(lexicon)},
            "masks": mask_digest(recipe.edit.masks),
            "editor": content_of(recipe.edit.editor),
            "judge": {"digest": judge_digest(recipe.edit.judge), "budget": budget},
        }
    return {**chosen, "edit": edit, "source": {**rest, "digest": index.digest}}

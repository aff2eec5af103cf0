"""Worked examples for a captioner, and the words of captions that no language model writes; pure.

In: nothing. Out: pools of examples by mode, things, surfaces, names of textures. On disk: caption_examples.yaml.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import yaml

Mode = Literal["concept", "relation", "background", "texture"]


@dataclass(frozen=True)
class Example:
    """A question, as far as its mode has it, and a good answer."""

    concept: str
    background: str | None
    relation: str | None
    caption: str


@dataclass(frozen=True)
class CaptionPools:
    concept: tuple[Example, ...]
    relation: tuple[Example, ...]
    background: tuple[Example, ...]
    texture: tuple[Example, ...]
    things: tuple[str, ...]  # what a subject may stand in relation to
    surfaces: tuple[str, ...]  # what may have a texture
    texture_names: frozenset[str]  # the classes of DTD

    def examples(self, mode: Mode) -> tuple[Example, ...]:
        return {
            "concept": self.concept,
            "relation": self.relation,
            "background": self.background,
            "texture": self.texture,
        }[mode]


@cache
def caption_pools() -> CaptionPools:
    """32 examples of a concept, 30 with a background, 20 with a relation, 21 of a texture; our own, all of them.

    The code of the paper has 52, 50, 20 and 21.
    """
    data = yaml.safe_load((Path(__file__).parent / "caption_examples.yaml").read_text(encoding="utf-8"))
    return CaptionPools(
        concept=tuple(Example(name, None, None, caption) for name, caption in data["concept"]),
        relation=tuple(Example(name, None, relation, caption) for name, relation, caption in data["relation"]),
        background=tuple(Example(name, where, None, caption) for name, where, caption in data["background"]),
        texture=tuple(Example(name, None, None, caption) for name, caption in data["texture"]),
        things=tuple(data["things"]),
        surfaces=tuple(data["surfaces"]),
        texture_names=frozenset(data["texture_names"]),
    )

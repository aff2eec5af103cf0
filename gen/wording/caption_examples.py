"""Examples of captions that a language model is shown, and words for captions without a language model; pure.

In: nothing. Out: examples by mode, things, surfaces, names of textures. On disk: caption_examples.yaml.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import yaml

Mode = Literal["concept", "relation", "background", "place", "texture"]


@dataclass(frozen=True)
class Example:
    """A question and a good answer; `background` and `relation` are None where the mode has none."""

    concept: str
    background: str | None
    relation: str | None
    caption: str


@dataclass(frozen=True)
class CaptionPools:
    """What caption_examples.yaml holds: examples of each mode, and words."""

    concept: tuple[Example, ...]
    relation: tuple[Example, ...]
    background: tuple[Example, ...]
    place: tuple[Example, ...]  # a background alone
    texture: tuple[Example, ...]
    things: tuple[str, ...]  # things that a subject may be next to, above, behind …
    surfaces: tuple[str, ...]  # things that may have a texture
    texture_names: frozenset[str]  # the classes of DTD

    def examples(self, mode: Mode) -> tuple[Example, ...]:
        """The examples of one mode."""
        return {
            "concept": self.concept,
            "relation": self.relation,
            "background": self.background,
            "place": self.place,
            "texture": self.texture,
        }[mode]


@cache
def caption_pools() -> CaptionPools:
    """The pools, as many examples as the code of the Unmet-Promise paper has, all our own: 52 of a concept, 50 with a
    background, 20 with a relation, 33 of a background alone, 21 of a texture."""
    data = yaml.safe_load((Path(__file__).parent / "caption_examples.yaml").read_text(encoding="utf-8"))
    return CaptionPools(
        concept=tuple(Example(name, None, None, caption) for name, caption in data["concept"]),
        relation=tuple(Example(name, None, relation, caption) for name, relation, caption in data["relation"]),
        background=tuple(Example(name, where, None, caption) for name, where, caption in data["background"]),
        place=tuple(Example("", where, None, caption) for where, caption in data["place"]),
        texture=tuple(Example(name, None, None, caption) for name, caption in data["texture"]),
        things=tuple(data["things"]),
        surfaces=tuple(data["surfaces"]),
        texture_names=frozenset(data["texture_names"]),
    )

"""The interface of editors: what `gen.edit.alter` asks for pixels, and the generator's own network behind it.

In: changes, each a picture with its prior, the region that may change, a text, a seed, settings. Out: `Sampled`, in
their order. On disk: nothing.

An editor may change what it likes. What lies outside the region is pasted back by the Maker, whatever the editor,
unless the recipe says `edit.paste: none`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gen.edit.attributes.attribute import AttributeKind
from gen.edit.cells import Settings
from gen.edit.perturb import Model
from gen.edit.priors.pixels import Image, MaskHW
from gen.sampler.sampler import Request, Sampled
from gen.sampler.start import Start

Alive = Callable[[float], None]  # the share of the call that is done, 0..1


@dataclass(frozen=True, eq=False)
class Change:
    """One picture to be changed; a square of the size that is made."""

    kind: AttributeKind
    words: str  # of the attribute, for an instruction
    request: Request
    source_HWC: Image
    start_HWC: Image  # the source with its prior
    object_HW: MaskHW
    settings: Settings

    @property
    def region_HW(self) -> MaskHW:
        """Where it may change."""
        return ~self.object_HW if self.kind == "background" else self.object_HW


class Editor(Protocol):
    """Draws priors, and changes pictures. A picture depends on its own change alone: not on its batch but for rounding
    where a recipe says so (`own`), and not at all elsewhere."""

    @property
    def columns(self) -> Mapping[str, object]:
        """What the row of each image says of the model, where it is another than the sampler's."""

    def wants_prior(self, kind: AttributeKind) -> bool:
        """Whether an edit of the kind begins with a prior."""

    def prepare(self, texts: Sequence[str], drawn: Sequence[str], negatives: Sequence[str]) -> None:
        """Name the texts of the changes and of the priors to come, in a fixed order."""

    def draw(self, requests: Sequence[Request], alive: Alive) -> Sampled:
        """Pictures for priors, from texts alone."""

    def change(self, changes: Sequence[Change], alive: Alive) -> Sampled:
        """One picture for each change, in order. A bad one is a flag, never an exception."""


class Own:
    """An Editor: the text-to-image model inpaints with its own network."""

    columns: Mapping[str, object] = {}

    def __init__(self, model: Model) -> None:
        self._model = model

    def wants_prior(self, kind: AttributeKind) -> bool:
        """Of each kind."""
        return True

    def prepare(self, texts: Sequence[str], drawn: Sequence[str], negatives: Sequence[str]) -> None:
        """All of them are read by the one model."""
        self._model.prepare([*texts, *drawn], negatives)

    def draw(self, requests: Sequence[Request], alive: Alive) -> Sampled:
        """One call."""
        return self._model.sample(requests, alive, None)

    def change(self, changes: Sequence[Change], alive: Alive) -> Sampled:
        """A call for each strength; their pixels may still be on the way."""
        groups: dict[float, list[int]] = {}
        for place, one in enumerate(changes):
            groups.setdefault(one.settings.strength, []).append(place)
        calls = []
        for strength, places in groups.items():
            chosen = [changes[place] for place in places]
            regions_NHW = np.stack([one.region_HW for one in chosen])
            start = Start(np.stack([one.start_HWC for one in chosen]), strength, regions_NHW)
            calls.append((places, self._model.sample([one.request for one in chosen], alive, start)))
        return joined(calls)


def joined(calls: Sequence[tuple[Sequence[int], Sampled]]) -> Sampled:
    """The images of several calls in one, at the places that are given; all there after its `wait`."""
    num = sum(len(places) for places, _ in calls)
    image_NHWC = np.empty((num, *calls[0][1].image_NHWC.shape[1:]), np.uint8)
    finite_N: NDArray[np.bool_] = np.zeros(num, bool)
    flagged_N: NDArray[np.bool_] = np.zeros(num, bool)

    def wait(seconds: float) -> None:
        for places, made in calls:
            made.wait(seconds)
            at = list(places)
            image_NHWC[at], finite_N[at], flagged_N[at] = made.image_NHWC, made.finite_N, made.flagged_N

    return Sampled(image_NHWC, finite_N, flagged_N, wait)

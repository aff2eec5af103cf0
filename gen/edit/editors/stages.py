"""The stages of editors: inpainting by trained networks, a ControlNet with an IP-Adapter, an instruction.

In: a change. Out: `Painted`. On disk: nothing. Sources: VariReal V.21 and V.23.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from gen.edit.attributes.attribute import AttributeKind
from gen.edit.editors.editor import Alive, Change
from gen.edit.editors.spec import CascadeSpec, InpaintSpec, InstructSpec
from gen.edit.editors.stock import Painted, Stock, each, pixels, region
from gen.edit.priors.background import GREY, background_region, object_on
from gen.edit.priors.edges import edge_image
from gen.edit.priors.pixels import Plane
from gen.sampler.start import stock_strength


@dataclass(frozen=True)
class Inpaint:
    """A Changer: the region is painted anew, from the prior on."""

    stock: Stock
    spec: InpaintSpec | CascadeSpec
    negative: str  # of requests that have none

    def wants_prior(self, kind: AttributeKind) -> bool:
        """Of each kind."""
        return True

    def change(self, changes: Sequence[Change], alive: Alive) -> list[Painted]:
        """One after the other."""
        return each(changes, self.paint, alive)

    def paint(self, change: Change, alive: Alive) -> Painted:
        """One picture."""
        settings, family = change.settings, self.stock.family
        steps = settings.steps or self.spec.steps
        arguments: dict[str, Any] = {
            "prompt": change.request.prompt,
            "image": pixels(change.start_HWC),
            "mask_image": region(self._region(change)),
            "strength": stock_strength(family, steps, settings.strength),
            "num_inference_steps": steps,
            "guidance_scale": self.spec.guidance if settings.guidance is None else settings.guidance,
        }
        if family != "flux":
            # None and not "": of an empty one some SDXL models take zeros, as the sampler does
            arguments["negative_prompt"] = change.request.negative or self.negative or None
        return self.stock.paint(arguments, change.request.seed, len(change.start_HWC), alive)

    def _region(self, change: Change) -> Plane:
        """What may be painted, 0..1."""
        if change.kind != "background" or not self.spec.region_blur_px:
            return change.region_HW
        return background_region(change.object_HW, self.spec.region_blur_px) / 255


@dataclass(frozen=True)
class Cascade:
    """A Changer: inpainting, and of an object's colour or texture a second stage with the object's own edges and the
    looks that the first stage gave it."""

    first: Inpaint
    second: Stock  # with a ControlNet, and an IP-Adapter if the spec has one
    spec: CascadeSpec
    negative: str

    def wants_prior(self, kind: AttributeKind) -> bool:
        """Where the first stage works."""
        return kind == "background" or self.spec.ip_adapter is not None

    def change(self, changes: Sequence[Change], alive: Alive) -> list[Painted]:
        """The first stage of all of them, then the second, so that two sets of networks change places once a call. A
        picture whose first stage is bad has no second."""
        begins = [place for place, one in enumerate(changes) if self.wants_prior(one.kind)]
        firsts = each([changes[place] for place in begins], self.first.paint, lambda share: alive(share / 2))
        done = dict(zip(begins, firsts, strict=True))
        left = [
            place
            for place, one in enumerate(changes)
            if one.kind != "background" and (place not in done or (done[place].finite and not done[place].flagged))
        ]
        shown = [
            replace(changes[place], start_HWC=done[place].image_HWC) if place in done else changes[place]
            for place in left
        ]
        seconds = each(shown, self._paint, lambda share: alive(0.5 + share / 2))
        done.update(zip(left, seconds, strict=True))
        return [done[place] for place in range(len(changes))]

    def _paint(self, change: Change, alive: Alive) -> Painted:
        """The second stage; `start_HWC` is what the first one made."""
        from PIL import Image as Pil

        arguments: dict[str, Any] = {
            "prompt": change.request.prompt,
            "negative_prompt": change.request.negative or self.negative or None,
            "image": pixels(edge_image(change.source_HWC, change.object_HW)),
            "num_inference_steps": self.spec.control_steps,
            "guidance_scale": self.spec.control_guidance,
            "controlnet_conditioning_scale": self.spec.control_scale,
        }
        if self.spec.ip_adapter is not None:
            scale = self.spec.ip_scale if change.settings.ip_scale is None else change.settings.ip_scale
            self.second.pipeline.set_ip_adapter_scale(scale)
            looks_HWC = object_on(change.start_HWC, change.object_HW, GREY)
            arguments["ip_adapter_image"] = Pil.fromarray(looks_HWC)
        return self.second.paint(arguments, change.request.seed, len(change.source_HWC), alive)


@dataclass(frozen=True)
class Instruct:
    """A Changer: an instruction says what becomes of the source."""

    stock: Stock
    spec: InstructSpec

    def wants_prior(self, kind: AttributeKind) -> bool:
        """Of none: it begins with noise beside the source."""
        return False

    def change(self, changes: Sequence[Change], alive: Alive) -> list[Painted]:
        """One after the other."""
        return each(changes, self._paint, alive)

    def _paint(self, change: Change, alive: Alive) -> Painted:
        settings, side = change.settings, len(change.source_HWC)
        arguments: dict[str, Any] = {
            "prompt": self.spec.instruction.of(change.kind).format(attribute=change.words),
            "image": pixels(change.source_HWC),
            "num_inference_steps": settings.steps or self.spec.steps,
            "guidance_scale": self.spec.guidance if settings.guidance is None else settings.guidance,
            "max_area": side * side,
            "_auto_resize": False,
        }
        return self.stock.paint(arguments, change.request.seed, side, alive)

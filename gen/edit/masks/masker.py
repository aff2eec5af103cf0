"""Masks of images: the ways of a `MaskSpec`, tried one after the other.

In: images with the names and kinds of their classes and the keys of their sources. Out: a `Mask` for each, or a status
and one line why there is none. On disk, read only: models, and masks that are there.

A mask depends on its image, name, kind and key, never on the others of a call. `made_worse` is a step of its own,
since it takes the seed of an edit.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gen.edit.masks.files import SUFFIX, Hashes, names_by_key, read_mask
from gen.edit.masks.networks import (
    Boxes,
    Found,
    Image,
    Masks,
    load_detector,
    load_sam,
    load_segmenter,
    load_text_segmenter,
)
from gen.edit.masks.pixels import MaskHW, area_share, dilate, largest_part, unlike_paper
from gen.edit.masks.spec import MaskSpec, Way, asked_text, mask_folders, mask_hashes
from gen.edit.masks.spoil import spoil
from shards.disk.layout import SUCCESS
from shards.disk.safe_text import one_line, quoted

NO_MASK = "no_mask"  # the status where no way gave one


class NoMask(ValueError):
    """A way found no object in an image; the message says why, for a list of ways."""


@dataclass(frozen=True)
class Source:
    """What a way may know of an image besides its pixels."""

    name: str  # of its class
    kind: str  # of its class; "" if it has none
    key: str  # of the source image, as `gen.edit.sources` has it


FindObject = Callable[[Image, Source], MaskHW]  # raises NoMask


@dataclass(frozen=True, eq=False)
class Mask:
    """Where the object of an image is, or why that is not known."""

    mask_HW: MaskHW | None  # None: no way gave one
    wide_HW: MaskHW | None  # grown by the spec's `dilate_px`: what to keep whole of a source, never what to paste
    how: Way | None  # the way that gave it
    status: str  # "success" or NO_MASK
    reason: str  # of the ways that gave none, one line; "" if the first one did
    area: float  # the share of the image that is object, before growing
    found_HW: MaskHW | None = None  # of a mask that was made worse: as it was found


class Masker:
    """The loaded ways of a spec, from `Masker.load`."""

    def __init__(self, spec: MaskSpec, ways: Mapping[Way, FindObject]) -> None:
        """`ways` has those of `spec.order`."""
        self.spec = spec
        self._ways = {way: ways[way] for way in spec.order}

    @staticmethod
    def load(spec: MaskSpec, device: str, hashes: Hashes | None = None) -> "Masker":
        """The ways on a device of torch, such as "cpu" or "cuda:1". `hashes`: of the masks that were there when the run
        began; None: begin now. Raises ModelError (a ValueError) with one line."""
        folders = mask_folders(spec)
        ways: dict[Way, FindObject] = {"otsu": by_otsu, "whole": whole}
        if "grounded" in spec.order:
            boxes_of = load_detector(folders["detector"], device, spec.box_threshold, spec.text_threshold)
            ways["grounded"] = grounded(spec, boxes_of, load_sam(folders["sam"], device))
        if "text" in spec.order:
            ways["text"] = by_text(spec, load_text_segmenter(folders["text_model"], device, spec.score_threshold))
        if "segmenter" in spec.order:
            mask_of = load_segmenter(folders["segmenter"], device, spec.object_ids)
            ways["segmenter"] = lambda image, source: mask_of(image)
        if "file" in spec.order:
            ways["file"] = from_files(folders["masks"], mask_hashes(spec) if hashes is None else hashes)
        return Masker(spec, ways)

    def masks(
        self, images_HWC: Sequence[Image], names: Sequence[str], kinds: Sequence[str], keys: Sequence[str]
    ) -> list[Mask]:
        """A mask for each image, in order: uint8 RGB of any sizes, with its class's name and kind and its source's key.

        Raises ValueError for what is no image, and ModelError for a model that answers nonsense.
        """
        for image in images_HWC:
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
                raise ValueError(f"image: found {image.dtype} {list(image.shape)}, expected uint8 [height, width, 3]")
        sources = [Source(*told) for told in zip(names, kinds, keys, strict=True)]
        return [self._mask(image, source) for image, source in zip(images_HWC, sources, strict=True)]

    def _mask(self, image: Image, source: Source) -> Mask:
        reasons = []
        for way, find in self._ways.items():
            try:
                found_HW = find(image, source)
                if way != "whole":
                    found_HW = _within_limits(self.spec, found_HW)
            except NoMask as error:
                reasons.append(f"{way}: {one_line(str(error))}")
                continue
            wide_HW = dilate(found_HW, self.spec.dilate_px)
            return Mask(found_HW, wide_HW, way, SUCCESS, "; ".join(reasons), area_share(found_HW))
        return Mask(None, None, None, NO_MASK, "; ".join(reasons), 0.0)


def made_worse(mask: Mask, spec: MaskSpec, seed: int) -> Mask:
    """The mask as `spec.spoil` leaves it, whatever its area is then; without that, or without a mask, what came in."""
    if spec.spoil is None or mask.mask_HW is None:
        return mask
    worse_HW = spoil(mask.mask_HW, spec.spoil, seed)
    wide_HW, area = dilate(worse_HW, spec.dilate_px), area_share(worse_HW)
    return replace(mask, mask_HW=worse_HW, wide_HW=wide_HW, area=area, found_HW=mask.mask_HW)


def _within_limits(spec: MaskSpec, mask_HW: MaskHW) -> MaskHW:
    """The mask after `contour` and `polygon_px`. Raises NoMask if its area is out of the limits."""
    part_HW = largest_part(mask_HW, spec.polygon_px) if spec.contour == "largest" else mask_HW
    area = area_share(part_HW)
    if not spec.least_area <= area <= spec.greatest_area:
        raise NoMask(f"found {area:.2%} of the image, expected {spec.least_area:.2%} to {spec.greatest_area:.2%}")
    return part_HW


# the ways; each is a function of one image and its source


def grounded(
    spec: MaskSpec, boxes_of: Callable[[Image, str], Found], masks_of: Callable[[Image, Boxes], Masks]
) -> FindObject:
    """A detector's boxes, then the object in the best box, or in all."""

    def find(image: Image, source: Source) -> MaskHW:
        found = boxes_of(image, asked_text(spec.query, source.name, source.kind))
        if not len(found.box_N4):
            raise NoMask(f"found no box with a score above {spec.box_threshold}")
        chosen_N4 = found.box_N4[:1] if spec.instances == "best" else found.box_N4
        return np.asarray(masks_of(image, chosen_N4).any(axis=0))

    return find


def by_text(spec: MaskSpec, masks_of: Callable[[Image, str], Masks]) -> FindObject:
    """What a segmenter finds under the phrase: the best object, or all."""

    def find(image: Image, source: Source) -> MaskHW:
        mask_NHW = masks_of(image, asked_text(spec.phrase, source.name, source.kind))
        if not len(mask_NHW):
            raise NoMask(f"found no object with a score above {spec.score_threshold}")
        return np.asarray(mask_NHW[0] if spec.instances == "best" else mask_NHW.any(axis=0))

    return find


def from_files(folder: Path, hashes: Hashes) -> FindObject:
    """The mask in `<folder>/<key>.png`, if that was there when the run began: a file of `hashes`. Raises NotAgain if it
    is gone or another one now, OSError if it cannot be read now."""
    names = names_by_key(hashes)

    def find(image: Image, source: Source) -> MaskHW:
        name = names.get(source.key)
        if name is None:
            raise NoMask(f"found no file {quoted(source.key + SUFFIX, 80)}")
        try:
            mask_HW = read_mask(folder, name, hashes[name])
        except ValueError as error:
            raise NoMask(f"{quoted(name, 80)}: {error}") from None
        if mask_HW.shape != image.shape[:2]:
            (height, width), (high, wide) = mask_HW.shape, image.shape[:2]
            raise NoMask(f"{quoted(name, 80)}: found {width} x {height} pixels, expected the image's {wide} x {high}")
        return mask_HW

    return find


def by_otsu(image: Image, source: Source) -> MaskHW:
    """Where the image is unlike its paper."""
    found = unlike_paper(image)
    if found is None:
        raise NoMask("found no contrast with the colour at the border")
    return found


def whole(image: Image, source: Source) -> MaskHW:
    """All of the image."""
    return np.ones(image.shape[:2], bool)

"""The protocol `Maker`: what makes images inside the refill loop (`gen.make.refill`).

In: samples, of a type of the Maker's own. Out: `Made`, one `Picture` for each (sample, draw) pair, and the columns of
its row. On disk: nothing.

A Maker knows its samples and makes images of them. It knows nothing of slots, screening, files and threads: the refill
loop owns these. Draw k of a sample is its k-th try: another seed for a generator, the next candidate for retrieval.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np

from shards.disk.jpeg import SourceType
from shards.disk.layout import SUCCESS

Sample = TypeVar("Sample")


@dataclass(frozen=True)
class Picture:
    """One image as a Maker hands it over, or why there is none."""

    image_HWC: np.ndarray | None  # uint8 RGB; None: there is nothing to see
    status: str = SUCCESS  # or the row's word for what went wrong, such as nan or failed_to_download
    error: str | None = None  # the row's text for a status that is not success
    columns: Mapping[str, object] = field(default_factory=dict)  # of the row: what only the image tells
    jpeg: bytes | None = None  # the JPEG of this very image, stored as it is; None: it is encoded
    is_final: bool = False  # of one that is no success: any other draw of its sample would end so, and none is made
    before_HWC: np.ndarray | None = None  # uint8 RGB: of an edit, the picture that it began with


@dataclass(frozen=True)
class Made:
    """The pictures of one call. They may still be on their way from a device or over the network."""

    wait: Callable[[float], None]  # seconds -> TimeoutError if they are not there by then; raises what a device raises
    picture: Callable[[int], Picture]  # by place in the call, after `wait`; what it raises rejects this image only


class Maker(Protocol[Sample]):
    """Used for one unit at a time. `make` runs in one thread, what `Made` has in another one.

    The same samples, prepared in the same order, and the same pairs in one call give the same pictures and rows.
    """

    @property
    def call_size(self) -> int:
        """(sample, draw) pairs in one call, at most."""

    @property
    def source_type(self) -> SourceType | None:
        """What its JPEGs say of where they come from; None: nothing, as real photographs do."""

    @property
    def advice_on_memory(self) -> str:
        """What to expect and to do where a call found no memory: the rest of a sentence."""

    @property
    def advice_on_failure(self) -> str:
        """What to do where a unit has no success at all: the rest of a sentence."""

    def samples(self, unit: int) -> Sequence[Sample]:
        """The samples of a unit, in slot order: a pure function of the run and the unit."""

    def prepare(self, samples: Sequence[Sample]) -> None:
        """All samples of the unit whose calls come next, in slot order."""

    def num_draws(self, sample: Sample) -> int | None:
        """How many draws a prepared sample has; None: as many as anybody wants.

        Draw 0 is asked for in any case: a sample without any candidate answers it with a status of its own.
        """

    def make(self, pairs: Sequence[tuple[Sample, int]], alive: Callable[[float], None]) -> Made:
        """One image for each (sample, draw) pair, in order. A call that may take minutes calls `alive` as it gets on,
        with the share of the call that is done, 0..1.

        A `ValueError` or the like (`gen.make.refill.IMAGE_ERRORS`) is the fault of one of the pairs: each is then made
        alone. Any other exception is the machine's fault and ends the attempt.
        """

    def row(self, sample: Sample, draw: int) -> Mapping[str, object]:
        """The columns of a draw's row that are known before its image: `uid`, `domain`, class and caption at least.

        Not `key`, `status`, `error_message`, `draw`, `batch`, `width` and `height`, which the loop fills in.
        """

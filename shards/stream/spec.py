"""What a training or an evaluation reads, and how: the parts of a recipe that `Stream` and `read_all` are given.

In: fields of a recipe. Out: frozen models. On disk: nothing.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from shards.disk.address import BESIDE, Beside, LocalPath
from shards.disk.store import open_for_reading
from shards.labels.classes import ClassSpec, load_classes
from shards.labels.folders import Named
from shards.labels.sources import SHIPPED
from shards.stream.augment import AugmentSpec
from shards.stream.class_shares import Sampling
from shards.stream.fetch import Fetcher, Verify
from shards.stream.index import own_classes_of
from shards.stream.index_arrays import Index
from shards.stream.mix import MixSpec

DomainName = Literal["real", "synthetic", "retrieved", "edited"]
SOURCE = (
    "folder or URL of a data set of ours or of tars that others wrote, an image folder, or a folder of Hugging Face "
    "datasets (save_to_disk, parquet)"
)


VERIFY = (
    "when a picture's bytes are compared with the hash in its table: the first time that a process reads it, each "
    "time, or never; tars that others wrote have none"
)


class CacheSpec(BaseModel):
    """How remote data sets are read; local ones are read in place."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: LocalPath | None = Field(
        default=None,
        description="of this machine, for whole shards; null: nothing is kept",
        examples=["/scratch/sixfold"],
    )
    max_bytes: int = Field(default=200 * 2**30, gt=0, description="the folder never holds more")
    fetch_threads: int = Field(
        default=16, ge=1, le=256, description="requests of each rank and domain at a time; they only wait"
    )

    def fetcher(self, source: str, index: Index, deadline_s: float, sharers: int, verify: Verify) -> Fetcher:
        """What reads the data set; `sharers` of this machine share the folder."""
        return Fetcher(
            index,
            open_for_reading(index.root or source),
            self.folder,
            self.max_bytes if self.folder else 0,
            sharers=sharers,
            threads=self.fetch_threads,
            deadline_s=deadline_s,
            verify=verify,
        )


class DomainSpec(BaseModel):
    """One source of pictures and its share of a group."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: DomainName = Field(description="where the pictures come from")
    source: Annotated[str, BESIDE] = Field(description=SOURCE)
    subset: str | None = Field(default=None, description="name of a subset or split of it; null = all samples")
    quota: int = Field(ge=1, description="samples of each group")
    sampling: Sampling = Field(
        default="natural",
        description="natural: each sample once a pass; balanced: all classes equally often, whatever they hold; sqrt: "
        "a class by the root of the samples it holds; a pass is as long in all three",
    )
    planted_shift: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="for experiments on gaps between domains: red and green of all its pictures lose contrast and gain "
        "light, after all augmentation; 0 = none, 1 = strongest",
    )
    grow: bool = Field(
        default=False, description="more shards may come while it is read; taken in at the end of an epoch"
    )


class StreamSpec(BaseModel):
    """What a training run reads, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    domains: tuple[DomainSpec, ...] = Field(min_length=1, description="in the order they have in a group")
    size_px: int = Field(ge=8, le=2048, description="side of the pictures in a batch")
    augment: AugmentSpec = Field(default=AugmentSpec(), description="how pictures are changed")
    mix: MixSpec = Field(default=MixSpec(), description="mixup and cutmix")
    window_shards: int = Field(default=16, ge=1, description="shards whose samples are shuffled with each other")
    threads: int = Field(default=2, ge=0, le=256, description="of this rank that decode; 0: in the training thread")
    prefetch_steps: int = Field(default=4, ge=1, le=64, description="batches that are decoded ahead")
    bad_rate: float = Field(default=0.001, ge=0, le=1, description="part of unreadable samples above which it stops")
    deadline_s: float = Field(
        default=300.0, gt=0, description="longest wait for a batch; a store that fails is asked again until then"
    )
    cache: CacheSpec = Field(default=CacheSpec(), description="for remote data sets")
    verify: Verify = Field(default="first", description=VERIFY)
    classes: Annotated[str | None, Beside(frozenset(SHIPPED))] = Field(
        default=None,
        examples=["imagenet-1k"],
        description="which ids class folders and class labels have, here and in the evaluation sets: imagenet-1k, a "
        "list, a folder or a data set; null = as in the first domain, if that is an image folder or of Hugging Face",
    )
    check_names: bool = Field(
        default=True,
        description="refuse data whose class names disagree about an id; false for names in other words, such as "
        "synonyms or another language, that you have compared yourself",
    )

    def class_list(self, source: str) -> Sequence[Named] | None:
        """The classes whose ids the folders or labels of `source` have; None: their own. Raises ValueError for a list
        that cannot be read."""
        if self.classes is not None:
            return _named(self.classes)
        first = self.domains[0]
        return None if source == first.source else own_classes_of(first.source, first.subset)

    def shown(self, source: str, crop_pct: float, size_px: int | None = None) -> "EvalSpec":
        """How a set is read to be measured beside such a training; `size_px` None: pictures of the training's size."""
        return EvalSpec(
            source=source,
            size_px=size_px or self.size_px,
            crop_pct=crop_pct,
            threads=self.threads,
            deadline_s=self.deadline_s,
            cache=self.cache,
            verify=self.verify,
        )


@lru_cache(maxsize=8)
def _named(source: str) -> tuple[Named, ...]:
    return tuple(load_classes(ClassSpec(source=source).uncounted()))


class EvalSpec(BaseModel):
    """How a test or validation set is read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(description=SOURCE)
    size_px: int = Field(ge=8, le=2048, description="side of the pictures in a batch")
    crop_pct: float = Field(default=0.875, gt=0, le=1, description="side of the centre that is shown / short side")
    threads: int = Field(default=2, ge=0, le=256, description="of this rank that decode; 0: in the calling thread")
    deadline_s: float = Field(
        default=300.0, gt=0, description="longest wait for a batch; a store that fails is asked again until then"
    )
    cache: CacheSpec = Field(default=CacheSpec(), description="for remote data sets")
    verify: Verify = Field(default="first", description=VERIFY)

"""The recipe of a retrieved data set: classes, a pool, how it is searched, what is kept.

In: a YAML file and `key.sub=value` overrides. Out: `RetrieveRecipe`; its identity, which is everything that decides
what the images are. `cluster` and `download` are no part of it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cluster.fan_out.work import FanOutSpec
from cluster.recipes.folder import changes
from cluster.recipes.load import load_recipe
from gen.make.refill import ShardSpec
from gen.make.screen import ScreenSpec
from gen.model.clip import clip_digest
from gen.prompts.meanings import MeaningSpec
from gen.prompts.real_images import content_of
from gen.wording.lexicon import SHIPPED
from retrieve.captions.spec import CaptionSpec
from retrieve.download.spec import DownloadSpec
from retrieve.filter.rule import Rule
from retrieve.pool.spec import PoolSpec
from shards.disk.address import BESIDE, Beside, LocalPath
from shards.disk.regular import file_content
from shards.labels.classes import ClassSpec

Route = Literal["captions", "text", "image"]


class SearchSpec(BaseModel):
    """Which rows of the pool become candidates of a class."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    routes: tuple[Route, ...] = Field(
        ("captions",),
        min_length=1,
        description="captions: the caption says the class; text, image: the vector of the caption or the image is near "
        "the class's text; several routes are joined",
    )
    captions: CaptionSpec = Field(default_factory=CaptionSpec)
    templates: tuple[str, ...] = Field(
        ("a photo of {name}.",),
        min_length=1,
        description="texts of a class for CLIP; {name} is its meaning, or its name if it has none",
    )
    per_query: int = Field(500, ge=1, le=1_000_000, description="rows that a text finds by `text` or `image`")
    index: Annotated[LocalPath | Literal["auto"] | None, Beside(frozenset({"auto"}))] = Field(
        None,
        description="how text and image search vectors: null = the exact scan of all; a folder that `sixfold index` "
        "wrote; auto = the index beside the vectors if there is one, else the scan",
        examples=["auto"],
    )
    most_per_class: int = Field(
        100_000, ge=1, description="rows of a class that are looked at; of more, these are drawn at random"
    )


class FilterSpec(BaseModel):
    """Which of the rows that were found stay: a share of each class, or those above a lowest score."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    top: float | None = Field(
        0.3,
        gt=0,
        le=100,
        description="share of the best of a class by CLIP score, or per cent above 1; null = all; "
        "where by_class or score is given, null",
    )
    by_class: Mapping[int, float] = Field(
        default={}, description="class id -> lowest score that stays", examples=[{"7": 0.25}]
    )
    score: float | None = Field(
        None, ge=-1, le=1, description="lowest score that stays, the same for all classes", examples=[0.2]
    )
    cap: int | None = Field(10_000, ge=1, description="images of a class; null = as many as there are")

    @model_validator(mode="before")
    @classmethod
    def _share_or_scores(cls, given: Any) -> Any:
        """A lowest score takes the place of the share that holds by default."""
        if not isinstance(given, Mapping) or (given.get("score") is None and not given.get("by_class")):
            return given
        if given.get("top") is not None:
            lowest = "by_class" if given.get("score") is None else "score"
            raise ValueError(f"found top and {lowest}, expected a share or lowest scores; set top to null, or leave it")
        return {**given, "top": None}

    @property
    def needs_scores(self) -> bool:
        """Whether images must be compared with texts."""
        return self.top is not None or self.score is not None or bool(self.by_class)

    def rule(self, test_above: float | None) -> Rule:
        """As `retrieve.filter.rule` takes it."""
        return Rule(top=self.top, by_class=self.by_class, lowest=self.score, cap=self.cap, test_above=test_above)


class DedupSpec(BaseModel):
    """What is left out because it is there already. Copies of the same bytes are in any case."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    near: float | None = Field(
        0.9, gt=0, le=1, description="likeness of pictures above which two of them are one; null = not looked for"
    )
    near_vectors: float | None = Field(
        None,
        gt=0,
        le=1,
        description="cosine of the pool's image vectors above which two pictures are one; needs no pictures; null = "
        "not looked for",
        examples=[0.94],
    )
    against: tuple[Annotated[str, BESIDE], ...] = Field(
        default=(), description="test sets that nothing of may be retrieved", examples=[["out/real/real-test"]]
    )


class RetrieveRecipe(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,79}$", description="lower-case letters, digits, dashes")
    seed: int = Field(0, ge=0, lt=2**63, description="run seed; another seed is another data set")
    classes: ClassSpec
    meanings: MeaningSpec = MeaningSpec()
    lexicon: Annotated[str, BESIDE] = Field("general", description="where candidates for meanings come from")
    pool: PoolSpec
    search: SearchSpec = Field(default_factory=SearchSpec)
    filter: FilterSpec = Field(default_factory=FilterSpec)
    dedup: DedupSpec = Field(default_factory=DedupSpec)
    order: Literal["random", "score"] = Field(
        "random",
        description="of the candidates that are kept: the nearest first, or at random (1x is as varied as 6x)",
    )
    most: int = Field(6, ge=1, le=1_000, description="the largest scale that may be asked for; others of it are spares")
    size_px: int | None = Field(None, ge=8, le=4096, description="side of the stored squares; null = as they are")
    licence: str | None = Field(None, description="of images of which the pool says none", examples=["CC-BY-4.0"])
    screen: ScreenSpec = Field(default_factory=ScreenSpec)
    shards: ShardSpec = Field(default_factory=ShardSpec)
    download: DownloadSpec = Field(default_factory=DownloadSpec)
    cluster: FanOutSpec = FanOutSpec()

    @model_validator(mode="after")
    def _vectors_have_a_model(self) -> "RetrieveRecipe":
        needs_scores = self.filter.needs_scores or self.order == "score"
        if self.pool.clip is None and (set(self.search.routes) & {"text", "image"} or needs_scores):
            raise ValueError(
                "pool.clip: found none, expected the CLIP that made the pool's vectors; name it, or do without "
                "vectors: search.routes: [captions], filter: {top: null}, order: random"
            )
        return self


def changes_of(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A line for each difference between two identities. A class list that moved, or whose counts are said in another
    way, is the same. An output that began before tars were noted (`knows_tars`) is taken for one of these tars."""
    kept = dict(before)
    if before["class_list"] == now["class_list"]:
        kept["classes"] = now["classes"]
    if not knows_tars(before):
        kept["tars_digest"] = now["tars_digest"]
    return changes(kept, now, RetrieveRecipe)


def knows_tars(identified: Mapping[str, Any]) -> bool:
    """Whether the version that began this output noted which tars its images are read from."""
    return "tars_digest" in identified


def read_retrieve_recipe(path: Path, overrides: Sequence[str]) -> RetrieveRecipe:
    """Raises RecipeError (a ValueError) with a line for each mistake."""
    return load_recipe(path, RetrieveRecipe, overrides)


def identity(
    recipe: RetrieveRecipe,
    pool_digest: str,
    indexes: Mapping[str, str] | None = None,
    tars_digest: str | None = None,
) -> dict[str, Any]:
    """What the images depend on, as plain JSON. What the recipe names stands here by its content, not by its path.
    `pool_digest`: without the lines of block lists, which the Makers ask again; `indexes`: those that are searched, by
    modality (`retrieve.run.route.indexes_of`); `tars_digest`: of the tars that images are read from, None if they are
    fetched.

    Raises ValueError for real images, test sets and models that cannot be read.
    """
    chosen = recipe.model_dump(
        mode="json", exclude={"cluster": True, "download": True, "pool": True, "dedup": {"against"}}
    )
    chosen["search"]["index"] = None if indexes is None else dict(indexes)
    meanings = recipe.meanings
    if recipe.lexicon not in SHIPPED:
        chosen["lexicon"] = file_content(recipe.lexicon)
    chosen["meanings"] |= {
        "overrides": file_content(meanings.overrides),
        "real": None if meanings.real is None else content_of(meanings.real, meanings.subset),
        "clip": None if meanings.clip is None else clip_digest(meanings.clip),
    }
    chosen["pool_digest"] = pool_digest
    chosen["tars_digest"] = tars_digest
    chosen["clip_digest"] = None if recipe.pool.clip is None else clip_digest(recipe.pool.clip)
    chosen["against"] = [content_of(source, None) for source in recipe.dedup.against]
    return chosen

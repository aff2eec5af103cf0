"""What a recipe says of the pool that is searched."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from gen.model.clip import ClipSpec
from shards.disk.address import BESIDE, LocalPath


class PoolSpec(BaseModel):
    """A folder of captions, with embeddings and images if there are any; parts that lie elsewhere are named."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Annotated[LocalPath, BESIDE] = Field(
        description="folder with *.parquet or metadata/*.parquet, img_emb/ and text_emb/, *.tar"
    )
    metadata: Annotated[LocalPath, BESIDE] | None = Field(
        None, description="folder of parquet files; null = in source", examples=["laion/metadata"]
    )
    embeddings: Annotated[LocalPath, BESIDE] | None = Field(
        None,
        description="folder with img_emb/ and text_emb/ in clip-retrieval's layout; null = in source",
        examples=["laion/embeddings"],
    )
    images: Annotated[LocalPath, BESIDE] | None = Field(
        None,
        description="folder of tar files; null = in source, and if there are none, images are downloaded",
        examples=["laion/images"],
    )
    clip: ClipSpec | None = Field(None, description="the CLIP that made the embeddings, and that queries are read by")
    columns: Mapping[str, str] = Field(
        default={}, description="role -> column, where it is not found by its name", examples=[{"caption": "alt"}]
    )
    unsafe_above: float = Field(
        0.5, ge=0, le=1, description="rows whose probability of being unsafe is above it never leave the pool"
    )
    block: tuple[Annotated[LocalPath, BESIDE], ...] = Field(
        default=(),
        description="lists of rows that never leave: a URL or a sha256 of an image on each line",
        examples=[["blocked.txt"]],
    )

    def at_home(self) -> "PoolSpec":
        """The same with absolute paths, for workers of other working folders."""
        clip = None if self.clip is None else self.clip.at_home()
        places = {
            name: place.absolute()
            for name in ("source", "metadata", "embeddings", "images")
            if (place := getattr(self, name)) is not None
        }
        block = tuple(path.absolute() for path in self.block)
        return self.model_copy(update={**places, "clip": clip, "block": block})

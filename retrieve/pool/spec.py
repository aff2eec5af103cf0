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
    metadata: Annotated[LocalPath, BESIDE] | None = Field(None, description="folder of parquet files; null = in source")
    embeddings: Annotated[LocalPath, BESIDE] | None = Field(
        None, description="folder with img_emb/ and text_emb/ in clip-retrieval's layout; null = in source"
    )
    images: Annotated[LocalPath, BESIDE] | None = Field(
        None, description="folder of tar files; null = in source, and if there are none, images are downloaded"
    )
    clip: ClipSpec | None = Field(None, description="the CLIP that made the embeddings, and that queries are read by")
    columns: Mapping[str, str] = Field(
        default={}, description="role -> column, where it is not found by its name", examples=[{"caption": "alt"}]
    )
    unsafe_above: float = Field(
        0.5, ge=0, le=1, description="rows whose probability of being unsafe is above it never leave the pool"
    )
    block: tuple[Annotated[LocalPath, BESIDE], ...] = Field(
        default=(), description="lists of rows that never leave: a URL or a sha256 of an image on each line"
    )

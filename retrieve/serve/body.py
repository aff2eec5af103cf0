"""The bodies of requests: read up to a limit, checked before anything is made of them.

In: a stream of bytes. Out: `KnnBody`, `MetadataBody`, `BlockBody`. On disk: nothing. A client of clip-retrieval sends
no content type, and more fields than are used: other fields are let pass.
"""

import asyncio
import base64
import binascii
from collections.abc import AsyncIterator
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cluster.recipes.mistake import mistakes
from retrieve.pool.embeddings import Modality
from retrieve.serve.search import MOST_PICTURE_BYTES, MOST_ROWS, MOST_TEXT, Mistake, Query
from shards.disk.checked_json import plain_json
from shards.disk.safe_text import one_line

KNN_BYTES = MOST_PICTURE_BYTES * 4 // 3 + (1 << 18)  # a picture in base 64, or numbers
IDS_BYTES = 1 << 18
READ_S = 30.0  # from the first byte of a body to its last
THROWN_AWAY = 4  # times the limit: of a body that is too long so much is read, so that its sender hears the answer
MOST_NUMBERS = 1 << 14  # of a vector

Model = TypeVar("Model", bound=BaseModel)


class TooLarge(ValueError):
    """A body beyond its limit; one line."""


class TooSlow(ValueError):
    """A body that does not come; one line."""


class KnnBody(BaseModel):
    """A query, with the names of clip-retrieval. What asks for a model that is not here is let pass: flagged rows never
    leave, whatever `use_safety_model` says, and there are no aesthetic scores."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    text: str | None = Field(None, max_length=MOST_TEXT)
    image: str | None = None  # base 64
    image_url: str | None = None
    embedding_input: list[float] | None = Field(None, max_length=MOST_NUMBERS)
    modality: Modality = "image"
    num_images: int = Field(40, ge=1, le=MOST_ROWS)
    num_result_ids: int | None = Field(None, ge=1, le=MOST_ROWS)
    indice_name: str | None = Field(None, max_length=MOST_TEXT)
    use_mclip: bool | None = False
    deduplicate: bool | None = False

    def query(self) -> Query:
        """Raises Mistake for what this server does not do: fetch an address, read texts by another model."""
        if self.image_url:
            raise Mistake(
                "image_url: found an address, expected the picture itself in base 64 as `image`; this server fetches "
                "nothing"
            )
        if self.use_mclip:
            raise Mistake("use_mclip: found true, expected false; texts are read by the CLIP of the pool alone")
        return Query(
            text=self.text or None,
            image=None if self.image is None else _from_base64(self.image),
            vector=self.embedding_input,
            modality=self.modality,
            num_rows=self.num_images if self.num_result_ids is None else self.num_result_ids,
            num_told=self.num_images,
            deduplicate=bool(self.deduplicate),
        )


class MetadataBody(BaseModel):
    """Rows whose metadata are asked for."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    ids: list[int] = Field(max_length=MOST_ROWS)
    indice_name: str | None = Field(None, max_length=MOST_TEXT)


class BlockBody(BaseModel):
    """Rows that shall not be found any more."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    ids: list[int] = Field(min_length=1, max_length=MOST_ROWS)


def parse(data: bytes, model: type[Model]) -> Model:
    """Raises Mistake with one line for what is no JSON, NaN, lists in lists without end, and wrong fields."""
    try:
        body = plain_json(data)
    except ValueError as error:
        raise Mistake(f"the body: found no JSON ({one_line(str(error), 120)}), expected an object") from None
    if not isinstance(body, dict):
        raise Mistake(f"the body: found a JSON {type(body).__name__}, expected an object")
    try:
        return model.model_validate(body)
    except ValidationError as invalid:
        raise Mistake(one_line(mistakes(invalid, model, body)[0][1], 300)) from None


async def read_body(stream: AsyncIterator[bytes], told: int | None, at_most: int) -> bytes:
    """All bytes of a body; `told` is what its header says. Raises TooLarge and TooSlow.

    What is beyond the limit is never kept.
    """
    if told is not None and told > at_most * THROWN_AWAY:
        raise TooLarge(f"the body: found {told:,} bytes, expected at most {at_most:,}")
    parts: list[bytes] = []
    num = 0
    try:
        async with asyncio.timeout(READ_S):
            async for part in stream:
                num += len(part)
                if num <= at_most:
                    parts.append(part)
                else:
                    parts.clear()
                    if num > at_most * THROWN_AWAY:
                        break
    except TimeoutError:
        raise TooSlow(f"the body: found {num:,} bytes in {READ_S:.0f} s, expected all of them") from None
    if num > at_most:
        raise TooLarge(f"the body: found {num:,} bytes or more, expected at most {at_most:,}")
    return b"".join(parts)


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Mistake("image: found no base 64, expected a picture's file in it") from None

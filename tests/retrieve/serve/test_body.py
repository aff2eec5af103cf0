"""Whatever the body of a request holds, it is a query or one line that says why it is none."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieve.serve.body import THROWN_AWAY, BlockBody, KnnBody, MetadataBody, TooLarge, parse, read_body
from retrieve.serve.search import Mistake, Query

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
VALUES = st.recursive(SCALARS, lambda one: st.lists(one) | st.dictionaries(st.text(), one), max_leaves=8)
FIELDS = st.dictionaries(st.sampled_from([*KnnBody.model_fields, "ids", "aesthetic_score", "x"]), VALUES)


def taken(data: bytes) -> None:
    lines = []
    for model in (KnnBody, MetadataBody, BlockBody):
        try:
            body = parse(data, model)
            assert not isinstance(body, KnnBody) or isinstance(body.query(), Query)
        except Mistake as mistake:
            lines.append(str(mistake))
    assert all(line.isprintable() and len(line) < 400 for line in lines)


@given(FIELDS)
def test_any_fields_are_a_query_or_one_line(fields: dict[str, object]) -> None:
    taken(json.dumps(fields).encode())


@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_are_a_query_or_one_line(data: bytes) -> None:
    taken(data)
    taken(b'{"image": ' + json.dumps(base64.b64encode(data).decode()).encode() + b"}")


def test_fields_are_taken_as_clip_retrievals_server_takes_them() -> None:
    query = parse(b'{"text": "a", "num_images": 7, "num_result_ids": 9, "deduplicate": true}', KnnBody).query()
    assert (query.text, query.num_told, query.num_rows, query.deduplicate) == ("a", 7, 9, True)
    query = parse(b'{"text": "", "embedding_input": [1, 2.5], "num_images": 7, "aesthetic_score": ""}', KnnBody).query()
    assert (query.text, query.vector, query.num_told, query.num_rows) == (None, [1, 2.5], 7, 7)
    assert not query.deduplicate


@given(st.lists(st.binary(max_size=50), max_size=40), st.integers(1, 300))
def test_a_body_is_read_whole_or_refused_and_little_more_than_the_limit_is_read(
    parts: list[bytes], at_most: int
) -> None:
    sent = 0

    async def stream() -> AsyncIterator[bytes]:
        nonlocal sent
        for part in parts:
            sent += len(part)
            yield part

    whole = b"".join(parts)
    if len(whole) <= at_most:
        assert asyncio.run(read_body(stream(), None, at_most)) == whole
    else:
        with pytest.raises(TooLarge, match=f"expected at most {at_most}"):
            asyncio.run(read_body(stream(), None, at_most))
        assert sent <= THROWN_AWAY * at_most + 50

"""clip-retrieval's own client asks our server, and the reader of its indexing reads our vectors; both real."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from cluster.process.stop_flag import StopFlag
from retrieve.embed.run import plan, run
from retrieve.embed.spec import EmbedSpec
from retrieve.pool.embeddings import open_embeddings
from shards.disk.home import home
from tests.support.served_pool import CLIP, FLAGGED, ROWS, pictures_of_pool

PYTHON = home() / ".tools" / "clip-client" / "bin" / "python"
PROGRAM = home() / "tests" / "support" / "clip_client.py"
pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason=f"{PYTHON} is missing; `make tools` makes it")


def asked(*arguments: str, given: object = None) -> object:
    """What the program says, in the environment of clip-retrieval."""
    done = subprocess.run(
        [PYTHON, PROGRAM, *arguments], input=json.dumps(given), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def query(server, modality="image", number=5, **given):
    return asked("query", f"{server.address}knn-service", "digits", modality, str(number), given=given)


@pytest.mark.parametrize("modality", ["image", "text"])
def test_its_client_searches_by_text_by_picture_and_by_vector(server, modality, tmp_path):
    file = tmp_path / "seven.jpg"
    file.write_bytes(pictures_of_pool()[7])
    vector = server.search.pool.embeddings(modality).take(np.array([3]))[0].tolist()
    for given, first in (({"text": "a digit in black ink, number 3"}, None), ({"image": str(file)}, 7)):
        hits = query(server, modality, **given)
        assert len(hits) >= 3
        assert all({"id", "similarity", "url", "caption"} <= hit.keys() for hit in hits)
        assert all(hit["url"] == f"https://example.com/{hit['id']}.jpg" for hit in hits)
        assert not {hit["id"] for hit in hits} & set(FLAGGED)
        if modality == "image" and first is not None:
            assert hits[0]["id"] == first
    hits = query(server, modality, embedding_input=vector)
    assert hits[0]["id"] == 3
    assert hits[0]["caption"] == "a digit in black ink, number 3"
    assert hits[0]["similarity"] == pytest.approx(1, abs=1e-3)


def test_its_client_is_told_that_nothing_is_fetched_and_by_what_name_the_pool_goes(server):
    assert "fetches nothing" in query(server, image="http://127.0.0.1:9/x.jpg")["error"]
    other = asked("query", f"{server.address}knn-service", "laion5B", "image", "5", given={"text": "a"})
    assert "expected 'digits'" in other["error"]


def test_the_reader_of_its_indexing_reads_the_vectors_and_rows_that_embed_writes(pool: Path, tmp_path: Path) -> None:
    spec = EmbedSpec.model_validate(
        {
            "pool": {"source": str(pool), "clip": {"model": CLIP}},
            "modalities": ["image", "text"],
            "cluster": {"in_process": True},
        }
    )
    with StopFlag() as stop:
        assert run(plan(spec, tmp_path / "emb"), stop).exit_code == 0
    read = asked("read", str(tmp_path / "emb"))
    assert isinstance(read, dict)
    ours = open_embeddings(tmp_path / "emb", "image")
    assert ours is not None
    assert (read["count"], read["dim"]) == (ROWS, ours.dim)
    assert np.array_equal(np.array(read["vectors"], np.float32), ours.take(np.arange(ROWS)))
    assert [row["caption"] for row in read["rows"]][3] == "a digit in black ink, number 3"
    assert [row["image_path"] for row in read["rows"]][:2] == ["000000000", "000000001"]

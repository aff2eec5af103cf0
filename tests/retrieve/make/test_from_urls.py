"""Pictures fetched by the real img2dataset from servers that give every answer there is: each has its status."""

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from gen.make.refill import UnitWorker
from retrieve.make.candidates import CANDIDATES, SCHEMA, table_bytes
from retrieve.make.from_urls import make_from_urls_worker
from shards.disk.jpeg import encode_jpeg
from shards.disk.store import open_for_reading, open_store
from shards.set.manifest import read_member, read_table
from tests.support.img2dataset import needs_img2dataset
from tests.support.picture_server import PictureServer, certificate
from tests.support.small_pool import retrieve_job

MP4 = b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom" + bytes(3000)


def jpeg_of(seed: int, side: int = 64) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side, 3), np.uint8)
    return encode_jpeg(pixels, source_type=None)


def png_of(height: int, width: int) -> bytes:
    sink = io.BytesIO()
    pixels = np.random.default_rng(9).integers(0, 255, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(sink, format="PNG")
    return sink.getvalue()


def url_worker(
    folder: Path, classes: list[list[tuple[str | None, str | None]]], download: dict[str, object], **fields: object
) -> UnitWorker:
    """One image of each class; `classes`: the address and the sha256 of its candidates, in their order."""
    rows = [(number, rank, url, sha) for number, own in enumerate(classes) for rank, (url, sha) in enumerate(own)]
    told = {
        "class_id": [number for number, _, _, _ in rows],
        "rank": [rank for _, rank, _, _ in rows],
        "row": list(range(len(rows))),
        "score": [0.5] * len(rows),
        "caption": [f"caption {number}.{rank}" for number, rank, _, _ in rows],
        "url": [url for _, _, url, _ in rows],
        "sha256": [sha for _, _, _, sha in rows],
    }
    nothing = {name: [None] * len(rows) for name in SCHEMA.names}
    store = open_store(str(folder / "out"))
    store.replace(CANDIDATES, table_bytes(pa.table({**nothing, **told}, schema=SCHEMA)))
    num_per_class = dict.fromkeys(range(len(classes)), 1)
    job = retrieve_job(num_per_class, 1, out=folder / "out", size_px=64, download=download, **fields)
    shards = job.unit.shards.model_copy(update={"samples_per_shard": 100})
    job = job.model_copy(update={"unit": job.unit.model_copy(update={"shards": shards})})
    return make_from_urls_worker(job.model_dump(mode="json"))


def rows_of(folder: Path) -> list[dict[str, object]]:
    return read_table(open_for_reading(str(folder / "out")), [0]).to_pylist()


@dataclass
class World:
    """A unit that was made of one candidate of each kind, and what the servers saw."""

    folder: Path
    names: dict[str, int] = field(default_factory=dict)  # kind -> class
    done: dict[str, object] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)  # by the server that nobody may reach
    heads: list[str] = field(default_factory=list)  # of the requests to the others
    paths: list[str] = field(default_factory=list)
    beats: list[float] = field(default_factory=list)

    def rows(self, name: str) -> list[dict[str, object]]:
        """In the order of the draws."""
        mine = [row for row in rows_of(self.folder) if row["class_id"] == self.names[name]]
        return sorted(mine, key=lambda row: row["draw"])

    def status(self, name: str) -> tuple[str, str]:
        """Status and error of its only row."""
        (row,) = self.rows(name)
        return str(row["status"]), str(row["error_message"] or "")

    def stored(self, name: str) -> bytes:
        return read_member(open_for_reading(str(self.folder / "out")), self.rows(name)[-1])


def listed(server: PictureServer, refused: PictureServer, secure: PictureServer, busy: PictureServer) -> dict:
    """Kind -> its candidates."""
    plain = ["good", "chunked", "more", "missing", "forbidden", "broken", "slow", "silent", "endless", "claims", "cut"]
    plain += ["bomb", "garbage", "closed", "noai", "named"]
    kinds: dict[str, list[tuple[str | None, str | None]]] = {name: [(f"{server.url}/{name}/1", None)] for name in plain}
    for name in ("png", "page", "video", "half", "empty", "tiny"):
        kinds[name] = [(f"{server.url}/good/{name}.jpg", None)]
    for name in ("to_good", "to_refused", "to_metadata", "to_file", "to_ftp", "hops_5", "hops_6"):
        kinds[name] = [(f"{server.url}/{name}", None)]
    kinds["other_scheme"] = [("file:///etc/passwd", None)]
    kinds["number"] = [(f"http://2130706433:{refused.port}/good/1", None)]
    kinds["private"] = [(f"http://127.0.0.1:{refused.port}/good/1", None)]
    kinds["no_address"] = [(None, None)]
    kinds["nothing"] = []
    digest = hashlib.sha256(server.pictures["/good/1"]).hexdigest()
    kinds["same_bytes"] = [(f"{server.url}/good/1", digest.upper())]
    kinds["other_bytes"] = [(f"{server.url}/good/1", "0" * 64)]
    kinds["blocked_bytes"] = [(f"{server.url}/good/blocked.jpg", None)]
    kinds["blocked_url"] = [(f"{server.url}/good/listed.jpg", None)]
    for name in ("good", "endless", "slow", "noai"):
        kinds[f"tls_{name}"] = [(f"{secure.url}/{name}/1", None)]
    kinds["tls_to_refused"] = [(f"{secure.url}/to_refused", None)]
    for number in range(12):
        kinds[f"busy_{number}"] = [(f"{busy.url}/{('busy', 'down')[number % 2]}/{number}", None)]
    kinds["next"] = [(f"{server.url}/missing/2", None), (f"{server.url}/good/next.jpg", None)]
    return kinds


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    context, trusted = certificate(folder)
    (folder / ".netrc").write_text("default login trap password trap\n")
    with (
        PictureServer() as server,
        PictureServer() as refused,
        PictureServer(tls=context) as secure,
        PictureServer(host="127.0.0.2") as busy,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "all_proxy", "ftp_proxy"):
            patch.setenv(name, refused.url)
        patch.setenv("no_proxy", "*")
        patch.setenv("HOME", str(folder))
        patch.setenv("SSL_CERT_FILE", str(trusted))
        for kind in ("good", "endless", "claims", "cut", "more", "chunked", "noai", "named", "slow"):
            server.pictures[f"/{kind}/1"] = secure.pictures[f"/{kind}/1"] = jpeg_of(1)
        server.pictures |= {
            "/good/png.jpg": png_of(90, 120),
            "/good/page.jpg": b"<!DOCTYPE html><title>gone</title>" + bytes(100),
            "/good/video.jpg": MP4,
            "/good/half.jpg": jpeg_of(2)[:3000],
            "/good/tiny.jpg": png_of(4, 6),
            "/good/blocked.jpg": jpeg_of(3),
            "/good/listed.jpg": jpeg_of(4),
            "/good/next.jpg": jpeg_of(5),
        }
        hops = {f"/hop/{number}": f"/hop/{number + 1}" for number in range(1, 6)} | {"/hop/6": "/good/1"}
        server.redirects = {
            **hops,
            "/hops_5": "/hop/3",
            "/hops_6": "/hop/2",
            "/to_good": f"{server.url}/good/1",
            "/to_refused": f"{refused.url}/good/1",
            "/to_metadata": "http://169.254.169.254/latest/meta-data/",
            "/to_file": "file:///etc/passwd",
            "/to_ftp": f"ftp://127.0.0.1:{refused.port}/a.jpg",
        }
        secure.redirects = {"/to_refused": f"{refused.url}/good/1"}
        block = folder / "block.txt"
        block.write_text(f"{hashlib.sha256(jpeg_of(3)).hexdigest()}\n{server.url}/good/listed.jpg\n")
        made = World(folder)
        kinds = listed(server, refused, secure, busy)
        made.names = {name: number for number, name in enumerate(kinds)}
        download = {
            "threads": 48,
            "retries": 1,
            "timeout_s": 2,
            "most_bytes": 100_000,
            "allow_hosts": [server.place, secure.place, busy.place],
        }
        pool = {"source": "nowhere", "block": [str(block)]}
        worker = url_worker(folder, list(kinds.values()), download, pool=pool)
        made.done = dict(worker(0, "one", lambda good, bad, under_way=0.0: made.beats.append(under_way)))
        worker.maker.gate.close()
        made.seen = refused.requests
        made.heads = server.heads
        made.paths = server.requests + busy.requests
        yield made


@needs_img2dataset
def test_each_kind_of_answer_has_its_status_and_the_counts_are_those_of_the_rows(world):
    rows = rows_of(world.folder)
    statuses = [row["status"] for row in rows]
    rejected = {name: statuses.count(name) for name in sorted(set(statuses) - {"success"})}
    good = {"good", "chunked", "more", "png", "to_good", "hops_5", "same_bytes", "tls_good", "next"}
    assert {name for name in world.names if world.rows(name)[-1]["status"] == "success"} == good
    assert (world.done["images"], world.done["rejected"]) == (len(good), rejected)
    assert world.done["short"] == len(world.names) - len(good)
    assert {row["domain"] for row in rows} == {"retrieved"}
    assert [world.status(name)[0] for name in ("nothing", "no_address")] == ["no_candidate", "refused_address"]
    assert len(rows) == len(world.names) + 1


@needs_img2dataset
def test_what_was_fetched_is_stored_byte_by_byte_or_cut_to_the_square_without_a_border(world):
    for name in ("good", "chunked", "more", "to_good", "tls_good"):
        assert world.stored(name) == jpeg_of(1)
    row = world.rows("png")[0]
    assert (row["original_width"], row["original_height"], row["width"], row["height"]) == (120, 90, 64, 64)
    assert row["url"].endswith("/good/png.jpg")
    assert (row["caption"], row["similarity"]) == (f"caption {world.names['png']}.0", 0.5)


@needs_img2dataset
def test_the_next_candidate_takes_the_place_of_one_that_failed_and_both_have_rows(world):
    first, second = world.rows("next")
    assert (first["status"], first["error_message"]) == ("failed_to_download", "HTTP Error 404: Not Found")
    assert (second["status"], world.stored("next")) == ("success", jpeg_of(5))


@needs_img2dataset
def test_g1_g2_what_is_no_address_of_the_web_is_never_asked_for(world):
    for name in ("other_scheme", "number", "private"):
        status, error = world.status(name)
        assert status == "refused_address"
        assert error.startswith("refused: ")
    assert world.seen == []


@needs_img2dataset
def test_g3_a_redirect_to_what_is_refused_ends_there_and_so_does_the_sixth(world):
    for name in ("to_refused", "to_metadata", "to_ftp", "tls_to_refused"):
        assert world.status(name)[0] == "failed_to_download"
        assert "HTTP Error 403: refused: " in world.status(name)[1]
    assert "not allowed" in world.status("to_file")[1]
    assert "redirect" in world.status("hops_6")[1]
    assert world.paths.count("/good/1") <= 2 * 6
    assert world.seen == []


@needs_img2dataset
def test_g5_what_is_too_large_or_cut_short_is_not_stored(world):
    assert world.status("endless")[1] == "HTTP Error 502: too large: more than 100,000 bytes"
    assert "says it has 10,737,418,240 bytes" in world.status("claims")[1]
    assert "cut short" in world.status("cut")[1]
    assert world.status("tls_endless")[0] == "too_large"


@needs_img2dataset
def test_g6_an_address_that_drips_or_says_nothing_has_a_deadline(world):
    assert world.status("slow")[1] == world.status("silent")[1] == "HTTP Error 504: slow: not done in 2 s"
    assert "slow: not done in 2 s" in world.status("tls_slow")[1]
    assert max(world.beats) >= 1  # it was said that the call is alive


@needs_img2dataset
def test_g7_a_packed_answer_is_no_picture(world):
    assert world.status("bomb")[0] == "failed_to_decode"


@needs_img2dataset
def test_g8_bytes_that_are_not_those_of_the_list_are_not_stored(world):
    status, error = world.status("other_bytes")
    assert (status, "'000000000000'" in error) == ("hash_mismatch", True)
    assert world.rows("same_bytes")[0]["status"] == "success"


@needs_img2dataset
def test_g9_what_is_on_a_block_list_leaves_nothing_but_a_status(world):
    for name in ("blocked_bytes", "blocked_url"):
        (row,) = world.rows(name)
        assert (row["status"], row["url"], row["caption"], row["width"]) == ("blocked", None, "", None)
    assert "/good/listed.jpg" not in world.paths


@needs_img2dataset
def test_g10_storms_of_refusals_are_recorded_and_not_answered_with_more_requests(world):
    for number in range(12):
        status, error = world.status(f"busy_{number}")
        assert status == "failed_to_download"
        assert any(code in error for code in ("429", "503"))
    assert sum(path.startswith(("/busy", "/down")) for path in world.paths) <= 24
    assert world.status("forbidden")[1] == "HTTP Error 403: Forbidden"
    assert world.status("broken")[1] == "HTTP Error 500: Internal Server Error"


@needs_img2dataset
def test_g11_what_only_bears_the_name_of_a_picture_is_told_by_its_bytes(world):
    for name, said in (("page", "web page"), ("video", "no whole picture"), ("half", "no whole picture")):
        status, error = world.status(name)
        assert status == "failed_to_decode"
        assert said in error
    assert world.status("tiny") == ("too_small", "found 6 x 4 pixels, expected at least 8")


@needs_img2dataset
def test_g12_proxies_logins_and_cookies_of_the_user_are_not_used(world):
    """The variables name the server that nobody may reach; .netrc has a login for every host."""
    assert world.seen == []
    sent = "".join(world.heads).lower()
    assert not [word for word in ("authorization", "cookie", "trap") if word in sent]


@needs_img2dataset
def test_g13_a_site_that_opts_out_is_left_out_and_that_is_recorded(world):
    for name in ("noai", "named", "tls_noai"):
        status, error = world.status(name)
        assert status == "opted_out"
        assert "X-Robots-Tag" in error

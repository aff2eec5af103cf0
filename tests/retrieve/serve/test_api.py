"""The API is clip-retrieval's; whatever is sent to it, it answers in one line and goes on."""

import base64
import io
import json
import socket
import struct
import threading
import time
import zlib

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

import retrieve.serve.app as app
import retrieve.serve.body as body
import retrieve.serve.connection as connection
from retrieve.serve.gate import HEADERS
from retrieve.serve.search import Mistake, Query
from shards.disk.jpeg import decode_jpeg, encode_jpeg, read_source_type
from tests.support.hostile_text import PAYLOADS
from tests.support.served_pool import FLAGGED, ROWS, open_search, pictures_of_pool, served, write_served_pool

TEXT = {"text": "a red digit", "modality": "image", "num_images": 3}
# what clip-retrieval's own client sends
CLIENT = {
    **{"text": "a red digit", "image": None, "image_url": None, "embedding_input": None, "deduplicate": True},
    **{"use_safety_model": True, "use_violence_detector": True, "indice_name": "digits", "use_mclip": False},
    **{"aesthetic_score": 9, "aesthetic_weight": 0.5, "modality": "image", "num_images": 4, "num_result_ids": 6},
}


def works(server):
    """The server answers a query."""
    return len(server.post("/knn-service", TEXT)) == 3


def png(width, height):
    """A PNG whose header claims a size that its data does not have."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0" * 99)) + chunk(b"IEND", b"")
    )


def image(data):
    return {**TEXT, "text": None, "image": base64.b64encode(data).decode()}


# what clip-retrieval knows


def test_a_query_of_clip_retrievals_client_is_answered_as_its_server_does(server):
    hits = server.post("/knn-service", CLIENT)
    query = Query(text="a red digit", num_rows=6, num_told=4, deduplicate=True)
    expected = server.search.find(query, time.monotonic() + 60)
    assert [hit["id"] for hit in hits] == [hit.row for hit in expected]
    assert [hit["similarity"] for hit in hits] == [hit.similarity for hit in expected]
    assert all(list(hit) == ["id", "similarity", "caption", "url", "image_path", "NSFW"] for hit in hits[:4])
    assert all(list(hit) == ["id", "similarity"] for hit in hits[4:])


def test_a_row_without_an_address_has_its_picture_in_the_answer(clip, tmp_path):
    write_served_pool(tmp_path / "p", clip, leave_out=["URL"])
    with served(open_search(tmp_path / "p", clip)) as server:
        hits = server.post("/knn-service", TEXT)
        for hit in hits:
            assert hit["url"] is None
            data = base64.b64decode(hit["image"])
            assert data == server.ask("GET", f"/image?row={hit['id']}")[2]
            assert decode_jpeg(data).shape == (64, 64, 3)


def test_metadata_are_told_by_row_and_flagged_rows_are_not(server):
    ids = [3, FLAGGED[0], 0]
    answer = server.post("/metadata", {"ids": ids, "indice_name": "digits"})
    assert [one["id"] for one in answer] == [3, 0]
    assert answer[0]["metadata"]["caption"] == "a digit in black ink, number 3"
    assert server.post("/metadata", {"ids": []}) == []
    assert server.get("/indices-list") == ["digits"]


def test_prometheus_reads_the_metrics_and_they_count(pool, clip):
    with served(open_search(pool, clip)) as server:
        assert server.ask("GET", "/metrics-summary")[2] == b"No request yet, go do some\n"
        for _ in range(3):
            server.post("/knn-service", TEXT)
        server.mistake("/knn-service", {})
        server.ask("GET", "/image?row=1")
        server.ask("GET", "/nowhere/at/all")
        status, headers, data = server.ask("GET", "/metrics")
        assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
        samples = {
            (one.name, *sorted(one.labels.items())): one.value
            for family in text_string_to_metric_families(data.decode())
            for one in family.samples
        }
        assert samples["full_knn_request_time_count",] == 4
        assert samples["text_clip_inference_time_count",] == 3
        assert samples["knn_index_time_sum",] > 0
        assert samples["sixfold_requests_total", ("route", "/knn-service"), ("status", "200")] == 3
        assert samples["sixfold_requests_total", ("route", "/knn-service"), ("status", "400")] == 1
        assert samples["sixfold_requests_total", ("route", "/image"), ("status", "200")] == 1
        assert samples["sixfold_requests_total", ("route", "other"), ("status", "404")] == 1
        assert samples["sixfold_pool_rows_kept",] == ROWS - len(FLAGGED)
        summary = server.ask("GET", "/metrics-summary")[2].decode()
        assert summary.startswith("Among 4 calls to the knn end point")
        assert "knn_index_time                       3" in summary


# pictures


def test_j4_a_picture_is_asked_for_by_the_number_of_its_row_alone(server):
    queries = ["", "-1", "+1", "1e1", "0x1", "%D9%A3", "1%00.jpg", "1&row=x", "9" * 22, "9" * 5000]
    queries += [str(row) for row in (ROWS, *FLAGGED[:2])]
    queries += ["../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "1/../../../etc/passwd", "/etc/passwd"]
    paths = ["/image", "/image/1", "/image/../../etc/passwd", "/image/..%2f..%2fetc%2fpasswd"]
    for path in paths + [f"/image?row={query}" for query in queries]:
        status, headers, data = server.ask("GET", path)
        assert status == 404, path
        assert headers["content-type"] == "application/json"
        assert json.loads(data)["error"].startswith("found no")
    assert works(server)


def test_h11_a_picture_is_encoded_anew_and_says_only_where_it_comes_from(clip, tmp_path):
    pictures = write_served_pool(tmp_path / "p", clip)
    generated = encode_jpeg(decode_jpeg(pictures[1]))
    with_tail = pictures[2][:-2] + b"<script>alert(1)</script>\xff\xd9PK\x03\x04 a zip"
    changed = {pictures[1]: generated, pictures[2]: with_tail, pictures[3]: png(60_000, 60_000), pictures[4]: b"GIF89a"}
    search = open_search(tmp_path / "p", clip)
    read = search._images.read
    search._images.read = lambda place: changed.get(data := read(place), data)
    with served(search) as server:
        seen = {}
        for row in range(5):
            status, headers, data = server.ask("GET", f"/image?row={row}")
            seen[row] = (status, data)
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["content-type"] == ("image/jpeg" if status == 200 else "application/json")
        assert [seen[row][0] for row in range(5)] == [200, 200, 200, 404, 404]
        assert read_source_type(seen[0][1]) is None
        assert read_source_type(seen[1][1]) == "trainedAlgorithmicMedia"
        assert b"script" not in seen[2][1]
        assert works(server)


# what is refused


@pytest.mark.parametrize(
    ("sent", "line"),
    [
        (b"", "found no JSON"),
        (b"\xff\xfe", "found no JSON"),
        (b"[" * 200_000, "nested too deep"),
        (b'{"a":' * 50_000, "nested too deep"),
        (b'{"embedding_input": [NaN]}', "NaN in JSON"),
        (b'{"embedding_input": [1e999]}', "1e999 in JSON"),
        (b'{"embedding_input": [Infinity]}', "Infinity in JSON"),
        (b'{"num_images": ' + b"9" * 5000 + b"}", "found no JSON"),
        ([1], "found a JSON list, expected an object"),
        ("text", "found a JSON str"),
        ({}, "found 0 of text, image and embedding_input"),
        ({**TEXT, "text": "a" * 1001}, "text: "),
        ({**TEXT, "text": 5}, "text: "),
        (b'{"text": "half of a pair \\ud83d"}', "text: "),
        ({**TEXT, "num_images": 0}, "num_images: found 0"),
        ({**TEXT, "num_images": 10_001}, "num_images: found 10001"),
        ({**TEXT, "num_images": True}, "num_images: "),
        ({**TEXT, "num_images": "5"}, "num_images: "),
        ({**TEXT, "num_result_ids": 10**30}, "num_result_ids: "),
        ({**TEXT, "modality": "audio"}, "modality: found"),
        ({**TEXT, "modality": ["image"]}, "modality: "),
        ({**TEXT, "indice_name": "laion5B"}, "expected 'digits'"),
        ({**TEXT, "use_mclip": True}, "use_mclip: found true, expected false"),
        ({**TEXT, "text": None, "image_url": "http://127.0.0.1:1/x.jpg"}, "this server fetches nothing"),
        ({**TEXT, "text": None, "embedding_input": [1.0, 2.0]}, "found 2 numbers"),
        ({**TEXT, "text": None, "embedding_input": [0.5] * 20_000}, "embedding_input: "),
        ({**TEXT, "text": None, "embedding_input": [[1.0]]}, "embedding_input"),
        ({**TEXT, "text": None, "embedding_input": {"0": 1.0}}, "embedding_input: "),
        ({**TEXT, "text": None, "image": "not base 64!"}, "found no base 64"),
        ({**TEXT, "text": None, "image": "é"}, "found no base 64"),
        (image(b"no picture"), "failed_to_decode"),
        (image(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "failed_to_decode"),
        (image(b"%!PS-Adobe-3.0 EPSF-3.0"), "failed_to_decode"),
        (image(png(60_000, 60_000)), "too_large"),
        (image(png(60_000, 10)), "too_narrow"),
        (image(png(100, 100)), "failed_to_decode"),
    ],
    ids=lambda value: None if isinstance(value, str) else "body",
)
def test_a_mistake_in_a_query_is_one_line_and_the_server_goes_on(server, sent, line):
    status, said = server.mistake("/knn-service", sent)
    assert status == 400
    assert line in said.replace("`", "")
    assert len(said) < 400
    assert works(server)
    assert not server.warned


def test_a_hostile_text_is_only_a_text(server):
    for text in PAYLOADS[::7]:
        assert len(server.post("/knn-service", {**TEXT, "text": text})) == 3
        status, said = server.mistake("/knn-service", {**TEXT, "modality": text})
        assert status == 400
        assert said.isprintable()


@pytest.mark.parametrize("path", ["/metadata", "/block"])
@pytest.mark.parametrize(
    "ids", [None, 5, "1", [1.5], ["1"], [True], [-1], [ROWS], [10**30], [0] * 10_001, {"0": 1}, [[0]]], ids=str
)
def test_a_mistake_in_a_list_of_rows_is_one_line(server, path, ids):
    status, _ = server.mistake(path, {"ids": ids}, {"X-Sixfold": "block"})
    assert status == 400


def test_a_body_that_is_too_long_is_refused_while_it_is_read(server, monkeypatch):
    monkeypatch.setattr(app, "KNN_BYTES", 10_000)
    long = json.dumps({**TEXT, "text": "a" * 9_000, "more": "b" * 9_000}).encode()
    assert server.mistake("/knn-service", long)[0] == 413
    status, said = server.mistake("/metadata", b" " * (app.IDS_BYTES + 1))
    assert (status, said) == (413, "the body: found 262,145 bytes or more, expected at most 262,144")
    with socket.create_connection(("127.0.0.1", server.port), 60) as client:  # its header lies in ambush
        client.sendall(b"POST /knn-service HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 413 ")
    with socket.create_connection(("127.0.0.1", server.port), 60) as client:  # it has no end, and says no length
        client.sendall(b"POST /knn-service HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(6):
            client.sendall(b"2000\r\n" + b"a" * 0x2000 + b"\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 413 ")
    assert works(server)


def test_a_body_that_comes_too_slowly_and_one_that_is_compressed_are_refused(server, monkeypatch):
    monkeypatch.setattr(body, "READ_S", 0.2)
    with socket.create_connection(("127.0.0.1", server.port), 60) as client:
        client.sendall(b"POST /knn-service HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        assert client.recv(1000).startswith(b"HTTP/1.1 408 ")
    status, said = server.mistake("/knn-service", zlib.compress(b" " * 100), {"Content-Encoding": "deflate"})
    assert (status, "plain one" in said) == (415, True)
    assert works(server)


def test_a_connection_that_sends_nothing_or_half_a_request_is_closed_and_one_at_work_is_not(pool, clip, monkeypatch):
    monkeypatch.setattr(connection, "IDLE_S", 0.2)
    search = open_search(pool, clip)
    find = search.find
    search.find = lambda query, until: time.sleep(0.6) or find(query, until)
    with served(search) as server:
        for sent in (b"", b"GET / HTTP/1.1\r\nHost: local", b"GET /about HTTP/1.1\r\nHost: localhost\r\n\r\nGET /ab"):
            with socket.create_connection(("127.0.0.1", server.port), 60) as idle:
                idle.sendall(sent)
                while idle.recv(10_000):
                    pass
        assert works(server)


def test_a_full_queue_is_told_at_once_and_a_long_wait_has_a_deadline(pool, clip, monkeypatch):
    monkeypatch.setattr(app, "SEARCH_THREADS", 1)
    monkeypatch.setattr(app, "SEARCHES_WAITING", 1)
    monkeypatch.setattr(app, "SEARCH_S", 2.0)
    search = open_search(pool, clip)
    go_on, begun = threading.Event(), threading.Event()
    find = search.find

    def slow(query, until):
        begun.set()
        assert go_on.wait(60)
        return find(query, until)

    search.find = slow
    with served(search) as server:
        answers = []
        threads = [threading.Thread(target=lambda: answers.append(server.mistake("/knn-service", TEXT)))]
        threads[0].start()
        assert begun.wait(60)
        threads.append(threading.Thread(target=lambda: answers.append(server.mistake("/knn-service", TEXT))))
        threads[1].start()
        while b"sixfold_searches_open 2.0" not in server.ask("GET", "/metrics")[2]:
            time.sleep(0.01)
        status, headers, data = server.ask("POST", "/knn-service", TEXT)
        assert (status, headers["retry-after"]) == (503, "2")
        assert "found 2 requests at work" in json.loads(data)["error"]
        for one in threads:
            one.join(60)
        assert [status for status, _ in answers] == [504, 504]
        go_on.set()
        while b"sixfold_searches_open 0.0" not in server.ask("GET", "/metrics")[2]:
            time.sleep(0.01)
        assert works(server)


def test_a_fault_of_ours_is_one_line_on_each_side(pool, clip):
    search = open_search(pool, clip)

    def broken(query, until):
        raise OSError("a disk is gone\n\x1b[31mand this is no colour token=hf_secretsecretsecretsecretsecret")

    find, search.find = search.find, broken
    with served(search) as server:
        assert server.mistake("/knn-service", TEXT) == (500, "the server could not answer this; its output says why")
        end = time.monotonic() + 60
        while not server.warned and time.monotonic() < end:  # it is told when the answer is sent
            time.sleep(0.01)
        (line,) = server.warned
        assert line.startswith("/knn-service: OSError: a disk is gone")
        assert line.isprintable()
        assert "secretsecret" not in line
        search.find = find
        assert works(server)


def test_no_answer_is_json_that_javascript_cannot_read(server):
    numbers = np.random.default_rng(0).normal(size=server.search.pool.image.dim).tolist()
    hits = server.post("/knn-service", {**TEXT, "text": None, "embedding_input": numbers, "num_images": 100})
    assert [hit["similarity"] for hit in hits] == sorted((hit["similarity"] for hit in hits), reverse=True)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_pictures_of_three_kinds_may_be_searched_for(server, kind):
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(decode_jpeg(pictures_of_pool()[7])).save(file, kind)
    assert server.post("/knn-service", image(file.getvalue()))[0]["id"] == 7


def test_j10_every_answer_has_the_headers_that_hold_browsers_back(server):
    for method, path, sent in (
        *(("GET", path, None) for path in ("/", "/page.css", "/page.js", "/mark.svg", "/about", "/metrics")),
        *(
            ("GET", path, None)
            for path in ("/metrics-summary", "/indices-list", "/image?row=1", "/nothing", "/knn-service")
        ),
        *(("POST", path, {}) for path in ("/knn-service", "/metadata", "/block", "/")),
        ("OPTIONS", "/knn-service", None),
    ):
        _, headers, _ = server.ask(method, path, sent)
        for name, value in HEADERS:
            assert headers[name.decode()] == value.decode(), (method, path)
        assert not any(name.startswith("access-control") for name in headers), (method, path)
        assert "server" not in headers
    policy = dict(HEADERS)[b"content-security-policy"].decode()
    assert "unsafe" not in policy
    assert "script-src 'self'" in policy


def test_blocking_without_a_list_says_how_to_have_one(server):
    status, said = server.mistake("/block", {"ids": [1]}, {"X-Sixfold": "block"})
    assert (status, "--block-list FILE" in said) == (400, True)
    with pytest.raises(Mistake):
        server.search.block([1])

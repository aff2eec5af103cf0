"""A server on 127.0.0.1 that speaks the part of the Hugging Face hub's API that a push needs.

It keeps repositories in memory: blobs by sha256, files by path. Tars, tables and weights go by LFS, all else in the
commit, as on the hub. `fails` are answers given instead of the next requests whose path has a word, with the headers
`says`; `silent` lets a request wait.

    with HubServer() as hub:
        push("someone/numbers", "dataset", files, TOKEN, endpoint=hub.url)
    assert hub.repos["datasets/someone/numbers"].files.keys() == ...
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType, TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote

TOKEN = "hf_" + "a" * 34
LARGE = (".tar", ".parquet", ".safetensors")


@dataclass
class Repo:
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)


class HubServer:
    """Use as a context manager."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.fails: list[tuple[str, int]] = []  # word of a path, status; each is used once
        self.says: dict[str, str] = {}  # headers of these answers
        self.silent: str | None = None  # requests whose path has this word get no answer
        self.released = threading.Event()
        hub = self

        class Handler(_Handler):
            server_of = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of: HubServer

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: tests read `requests`."""

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self._body())

    def do_PUT(self) -> None:
        self._answer(self._body())

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, body: bytes) -> None:
        hub, path = self.server_of, unquote(self.path.partition("?")[0])
        hub.requests.append(f"{self.command} {path}")
        if hub.silent is not None and hub.silent in path:
            hub.released.wait(60)
            return
        for number, (word, status) in enumerate(hub.fails):
            if word in path:
                del hub.fails[number]
                return self._send(status, {"error": f"scripted {status}"}, hub.says)
        if "/blob/" not in path and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._send(401, {"error": "bad token"})
        return self._route(path, body)

    def _route(self, path: str, body: bytes) -> None:
        hub = self.server_of
        if path == "/api/repos/create":
            asked = json.loads(body)
            prefix = "datasets/" if asked.get("type") == "dataset" else ""
            name = f"{prefix}{asked['organization']}/{asked['name']}"
            is_there = name in hub.repos
            hub.repos.setdefault(name, Repo(asked.get("visibility") != "public"))
            return self._send(409 if is_there else 200, {"url": f"{hub.url}/{name}"})
        if path == "/api/validate-yaml":
            return self._send(200, {"errors": [], "warnings": []})
        if found := re.fullmatch(r"/blob/([0-9a-f]{64})", path):
            hub.blobs[found[1]] = body
            right = hashlib.sha256(body).hexdigest() == found[1]
            return self._send(200 if right else 400, {})
        if found := re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", path):
            return self._send(
                200, {"transfer": "basic", "objects": [self._batch(one) for one in json.loads(body)["objects"]]}
            )
        if found := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(.*))?", path):
            name = f"{'datasets/' if found[1] == 'datasets' else ''}{found[2]}"
            repo = hub.repos.get(name)
            if repo is None:
                return self._send(404, {"error": "no such repository"})
            return self._of_repo(repo, found[2], found[3] or "", body)
        return self._send(404, {"error": path})

    def _batch(self, one: dict[str, Any]) -> dict[str, Any]:
        told = {"oid": one["oid"], "size": one["size"]}
        if one["oid"] in self.server_of.blobs:
            return told
        return {**told, "actions": {"upload": {"href": f"{self.server_of.url}/blob/{one['oid']}"}}}

    def _of_repo(self, repo: Repo, repo_id: str, rest: str, body: bytes) -> None:
        if rest in ("", "revision/main"):
            return self._send(200, {"id": repo_id, "private": repo.private, "sha": "0" * 40, "siblings": []})
        if rest == "preupload/main":
            files = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                }
                for one in json.loads(body)["files"]
            ]
            return self._send(200, {"files": files})
        if rest == "tree/main":
            return self._send(200, [_info(name, data) for name, data in sorted(repo.files.items())])
        if rest == "paths-info/main":
            names = parse_qs(body.decode()).get("paths", [])
            return self._send(200, [_info(name, repo.files[name]) for name in names if name in repo.files])
        if rest == "commit/main":
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "header":
                    repo.commits.append(value["summary"])
                elif line["key"] == "file":
                    repo.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "deletedFile":
                    del repo.files[value["path"]]
                elif line["key"] == "lfsFile":
                    repo.files[value["path"]] = self.server_of.blobs[value["oid"]]
            return self._send(
                200, {"commitUrl": f"{self.server_of.url}/{repo_id}/commit/{'0' * 40}", "commitOid": "0" * 40}
            )
        return self._send(404, {"error": rest})

    def _send(self, status: int, value: object, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, said in headers.items():
            self.send_header(name, said)
        self.end_headers()
        self.wfile.write(data)


def _info(name: str, data: bytes) -> dict[str, Any]:
    told: dict[str, Any] = {"type": "file", "path": name, "size": len(data)}
    if name.endswith(LARGE):
        told["oid"] = "1" * 40
        told["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    else:
        told["oid"] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    return told

"""`sixfold serve`: it says where it listens, ends when it is asked to, and refuses what cannot work in one line."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

import sixfold
from shards.disk.home import home
from tests.support.served_pool import CLIP
from tests.support.small_pool import write_table
from tests.support.waits import without_waits

TOKEN = "0123456789abcdef-token"


def refused(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """The one line of a mistake."""
    done = CliRunner().invoke(sixfold.command_line(), ["serve", *arguments])
    assert isinstance(done.exception, ValueError), (done.exception, done.output)
    line = str(done.exception)
    assert line.isprintable(), line
    return line


def test_it_serves_on_a_free_port_until_it_is_stopped_and_says_no_secret(pool: Path, tmp_path: Path) -> None:
    own = tmp_path / "blocked.txt"
    process = subprocess.Popen(
        [sys.executable, "-m", "sixfold", "serve", str(pool), "--clip", CLIP, "--port", "0", "--block-list", str(own)],
        cwd=home(),
        env={**os.environ, "SIXFOLD_SERVE_TOKEN": TOKEN},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    watch = threading.Timer(120, process.kill)
    watch.start()
    try:
        assert process.stdout is not None
        said = ""
        while "Ctrl-C" not in said:
            line = process.stdout.readline()
            assert line, process.stderr and process.stderr.read()
            said += line
        address = re.search(r"^page +http://127\.0\.0\.1:(\d+)/$", said, re.M)
        assert address, said
        assert "digits, 24 rows, 22 of them may leave; image and text vectors" in said
        assert f'ClipClient(url="http://127.0.0.1:{address[1]}/knn-service", indice_name="digits")' in said
        assert "only with the token" in said
        assert "search    image by the exact scan; text by the exact scan" in said
        connection = http.client.HTTPConnection("127.0.0.1", int(address[1]), timeout=60)
        right = {"Authorization": f"Bearer {TOKEN}"}
        connection.request("POST", "/knn-service", json.dumps({"text": "a red digit", "num_images": 2}), right)
        assert len(json.loads(connection.getresponse().read())) == 2
        connection.request("POST", "/block", '{"ids": [1]}', {**right, "X-Sixfold": "block"})
        assert json.loads(connection.getresponse().read())["new_lines"] == 1
        assert len(own.read_text().splitlines()) == 1
        assert TOKEN not in Path(f"/proc/{process.pid}/cmdline").read_text()
        process.send_signal(signal.SIGINT)  # with a connection that is kept open
        rest, errors = process.communicate(timeout=60)
    finally:
        watch.cancel()
        process.kill()
        process.wait(timeout=60)
    assert rest == "stopped (SIGINT)\n"
    assert without_waits(errors) == ""
    assert process.returncode == 0
    assert TOKEN not in said + rest + errors


def test_k1_no_token_for_others_is_one_line(monkeypatch: pytest.MonkeyPatch, pool: Path) -> None:
    monkeypatch.delenv("SIXFOLD_SERVE_TOKEN", raising=False)
    line = refused(monkeypatch, str(pool), "--clip", CLIP, "--host", "0.0.0.0", "--port", "0")
    assert line.startswith("--host 0.0.0.0: found no token, expected one in SIXFOLD_SERVE_TOKEN")
    monkeypatch.setenv("SIXFOLD_SERVE_TOKEN", "tooshort")
    line = refused(monkeypatch, str(pool), "--clip", CLIP, "--port", "0")
    assert line.startswith("SIXFOLD_SERVE_TOKEN: found 8 characters, expected at least 16")
    assert "tooshort" not in line


def test_a_port_that_is_taken_and_a_pool_without_vectors_are_one_line(
    monkeypatch: pytest.MonkeyPatch, pool: Path, tmp_path: Path
) -> None:
    monkeypatch.delenv("SIXFOLD_SERVE_TOKEN", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = refused(monkeypatch, str(pool), "--clip", CLIP, "--port", port)
    assert line == (
        f"--port {port}: found another program that listens there, expected a free port; give another, or 0 for any"
    )
    write_table(tmp_path / "bare pool" / "a.parquet", caption=["a"])
    line = refused(monkeypatch, str(tmp_path / "bare pool"), "--clip", "my clip", "--port", "0")
    assert f"make them with `sixfold embed '{tmp_path}/bare pool' --clip 'my clip'`" in line
    line = refused(monkeypatch, str(tmp_path / "nothing"), "--clip", CLIP, "--port", "0")
    assert "found no folder, expected the tables of a pool" in line
    line = refused(monkeypatch, str(pool), "--clip", CLIP, "--port", "0", "--block-list", str(tmp_path))
    assert "found a folder, expected the name of a file" in line
    line = refused(monkeypatch, str(pool), "--clip", CLIP, "--port", "0", "--index", str(tmp_path))
    assert line == f"--index {tmp_path}: found no index of `sixfold index`, expected one; build it, or take `none`"

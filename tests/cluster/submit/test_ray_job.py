"""A call as a job of a Ray cluster: what travels, what is refused before it is sent, and a real job server."""

import dataclasses
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from cluster.code import zip_files
from cluster.recipes.load import dump_recipe
from cluster.recipes.overrides import read_override
from cluster.recipes.site import RayJobSpec, SiteSpec
from cluster.submit import ray_job
from cluster.submit.book import Book
from cluster.submit.call import Call
from cluster.submit.luggage import pack
from cluster.submit.ray_job import check_server, package_of, token
from cluster.submit.state import JobError
from cluster.submit.submit import cancel_jobs, jobs_of, preview_job, submit_job, tails, told_jobs
from gen.run.recipe import Recipe
from shards.disk.home import home
from tests.support.job_server import JobServer, job_server
from tests.support.small_training import small_recipe, write_sets
from tests.support.waits import without_waits

SITE = SiteSpec()
NOBODY = "http://127.0.0.1:9"
CHEAP = ("cluster.in_process=true", "meanings.choose=none", "sampler.steps=1", "shards.samples_per_shard=20")


def call_of(out: Path | str, *arguments: str, named: tuple[tuple[str, str, Path], ...] = ()) -> Call:
    recipe = home() / "recipes" / "sandbox.yaml"
    return Call("generate", recipe, "sandbox", str(out), arguments or (*CHEAP, "--scale", "0.25x"), named)


# ---------------------------------------------------------------- what travels


def test_the_package_is_our_code_the_sandbox_and_the_recipe_and_nothing_that_lies_beside_them(tmp_path: Path) -> None:
    package = package_of(call_of(tmp_path / "out"), SITE, None)
    zip_files(package.files, tmp_path / "package.zip")
    names = zipfile.ZipFile(tmp_path / "package.zip").namelist()
    assert {"sixfold.py", "cluster/code.py", "sandbox/classes.csv", "job/0-sandbox.yaml"} <= set(names)
    assert "sandbox/models/clip/model.safetensors" in names
    assert any(name.startswith("sandbox/real-train/") for name in names)
    assert not [name for name in names if name.startswith((".", "out/", "tests/", "docs/"))]
    assert len(names) == len(set(names))


def test_small_files_that_the_recipe_names_travel_and_folders_must_be_seen(tmp_path: Path) -> None:
    (tmp_path / "classes.csv").write_text("name\nzero\n")
    (tmp_path / "real").mkdir()
    (tmp_path / "large.bin").write_bytes(bytes(30))
    named = (
        ("classes.source", "classes.csv", tmp_path / "classes.csv"),
        ("meanings.real", "real", tmp_path / "real"),
        ("prompts.file", "large.bin", tmp_path / "large.bin"),
        ("sampler.model", "sandbox/models/generator", home() / "sandbox" / "models" / "generator"),
    )
    shipped = ["sandbox/models/generator/model_index.json"]
    luggage = pack(call_of("s3://bucket/out", "--scale", "1x", named=named), shipped, "job", largest=20)
    assert luggage.files == {
        "job/0-sandbox.yaml": home() / "recipes" / "sandbox.yaml",
        "job/1-classes.csv": tmp_path / "classes.csv",
    }
    assert luggage.must_see == (str(tmp_path / "real"), str(tmp_path / "large.bin"))
    assert luggage.words == (
        *("generate", "job/0-sandbox.yaml", "--scale", "1x", "classes.source=job/1-classes.csv"),
        *(f"meanings.real={tmp_path}/real", f"prompts.file={tmp_path}/large.bin", "--out", "s3://bucket/out"),
    )


@pytest.mark.parametrize("name", ["a😀b", "a\u2028b", "a\x85b", "a\x7fb", "null", "a: b", "é # c", "'\""])
def test_a_path_of_any_characters_is_the_same_path_there(tmp_path: Path, name: str) -> None:
    named = (("meanings.real", name, tmp_path / name),)
    [change] = [word for word in pack(call_of("s3://b/o", "1x", named=named), [], "job").words if "=" in word]
    assert read_override(change, Recipe) == (("meanings", "real"), str(tmp_path / name))


def test_of_a_sweep_only_its_own_recipe_travels(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("name: base\n")
    call = Call(
        "sweep", tmp_path / "sweep.yaml", "sweep", "s3://b/o", (), (("base", "base.yaml", tmp_path / "base.yaml"),)
    )
    luggage = pack(call, [], "job")
    assert list(luggage.files) == ["job/0-sweep.yaml"]
    assert luggage.must_see == (str(tmp_path / "base.yaml"),)


def test_ranks_of_a_training_start_in_a_folder_that_every_machine_has(tmp_path: Path) -> None:
    """Ray unpacks the job's own folder where the program runs, and nowhere else."""
    (tmp_path / "labels.csv").write_text("")
    named = (("evaluate.labels", "labels.csv", tmp_path / "labels.csv"),)
    call = Call("train", tmp_path / "r.yaml", "r", "s3://b/o", (), named)
    (tmp_path / "r.yaml").write_text("name: r\n")
    said = preview_job(call, SiteSpec(nodes=2, gpus_per_node=4), NOBODY)
    assert 'code=$PWD; cd / && exec python "$code"/sixfold.py train "$code"/job/0-r.yaml --ranks 8' in said
    assert f"evaluate.labels={tmp_path}/labels.csv" in said
    assert "--ranks" not in preview_job(call, SITE, NOBODY)


def test_a_package_that_ray_would_refuse_is_refused_first_with_its_size_the_limit_and_the_largest_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_job, "MOST_BYTES", 10_000_000)
    with pytest.raises(JobError) as error:
        preview_job(call_of(tmp_path / "out"), SITE, NOBODY)
    said = str(error.value)
    assert re.match(r"package: found 2\d\.\d MB, expected", said)
    assert "at most 10.0 MB" in said
    assert "sandbox/models/generator/unet/diffusion_pytorch_model.safetensors (9.1 MB)" in said
    assert "\n" not in said


def test_the_limit_is_the_one_of_rays_job_server() -> None:
    from ray._private import ray_constants

    assert ray_constants.DASHBOARD_CLIENT_MAX_SIZE == ray_job.MOST_BYTES


def test_a_dry_run_says_what_would_be_sent_and_must_be_seen_and_writes_nothing(tmp_path: Path) -> None:
    said = preview_job(call_of(tmp_path / "o u t"), SiteSpec(job=RayJobSpec(python="/opt/py")), NOBODY)
    assert "would send" in said
    assert f"to {NOBODY}" in said
    assert f"exec /opt/py sixfold.py generate job/0-sandbox.yaml {' '.join(CHEAP)}" in said
    assert f"--out '{tmp_path}/o u t'" in said
    assert f"must see, at the same place: {tmp_path}/o u t" in said
    assert not (tmp_path / "o u t").exists()


def test_a_job_whose_machine_does_not_see_the_output_ends_at_once_with_a_line(tmp_path: Path) -> None:
    """Otherwise it would write to a folder of that machine, where nobody looks."""
    proof = tmp_path / "it's out" / "_meta" / "jobs" / "00001.json"
    entrypoint = package_of(call_of(tmp_path / "it's out"), SITE, proof).entrypoint.replace(
        "exec python", "echo begins"
    )
    done = subprocess.run(["sh", "-c", entrypoint], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"sixfold: {tmp_path}/it's out: found nothing here on the cluster")
    assert done.stderr.count("\n") == 1
    proof.parent.mkdir(parents=True)
    proof.write_text("{}")
    done = subprocess.run(["sh", "-c", entrypoint], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("begins sixfold.py generate job/0-sandbox.yaml")


# ---------------------------------------------------------------- who answers


class Fake(http.server.BaseHTTPRequestHandler):
    status, answer = 200, b"{}"
    post = "late"  # what becomes of a job that is sent
    heard: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        type(self).heard.append(self.path)
        self.send_response(self.status)
        self.send_header("Location", "/elsewhere")
        self.end_headers()
        self.wfile.write(self.answer)

    def do_POST(self) -> None:
        """A job that is taken, and whose answer comes too late."""
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.post == "late":
            time.sleep(3)
        elif self.post == "lost":  # the server ends: nobody can be asked
            type(self).status = 503
            self.close_connection = True
        else:
            self.send_response(int(self.post))
            self.end_headers()
            self.wfile.write(b"no")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def fake() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Fake)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "answer", "said"),
    [
        (200, b'{"ray_version": "2.9.3"}', "found Ray 2.9.3, expected 2.60 or newer"),
        (200, b'{"ray_version": "new"}', "found Ray new, expected 2.60"),
        (200, b"<html>", "what answers there is no job server of Ray"),
        (200, b"[]", "what answers there is no job server of Ray"),
        (404, b"", "what answers there is no job server of Ray (HTTP 404)"),
        (302, b"", "what answers there is no job server of Ray (HTTP 302)"),
        (401, b"", "found no token, expected the cluster's; set RAY_AUTH_TOKEN"),
    ],
)
def test_what_is_no_server_for_us_is_told_in_a_line(
    fake: str, monkeypatch: pytest.MonkeyPatch, status: int, answer: bytes, said: str
) -> None:
    monkeypatch.setattr(Fake, "status", status)
    monkeypatch.setattr(Fake, "answer", answer)
    with pytest.raises(JobError, match=r"^job:http://127") as error:
        check_server(fake)
    assert said in str(error.value)
    assert set(Fake.heard) == {"/api/version"}, "the token is for the server that was named"


def test_a_job_whose_answer_is_lost_keeps_its_receipt(
    fake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have begun: the next look finds out."""
    monkeypatch.setattr(Fake, "status", 200)
    monkeypatch.setattr(Fake, "answer", b'{"ray_version": "2.60.0"}')
    monkeypatch.setattr(ray_job, "SEND_S", 1.0)
    with pytest.raises(
        JobError, match=r"found no answer within 1 s while sending 2[0-9.]+ MB to the job server; try again"
    ):
        submit_job(call_of(tmp_path / "out"), SITE, fake, print)
    [receipt] = Book.of(str(tmp_path / "out")).receipts()
    assert receipt.where == fake
    assert not list(tmp_path.rglob("*.zip"))


@pytest.mark.parametrize(("post", "kept"), [("lost", True), ("504", True), ("400", False), ("403", False)])
def test_a_receipt_goes_only_if_the_server_itself_has_refused_the_job(
    fake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, post: str, kept: bool
) -> None:
    monkeypatch.setattr(Fake, "status", 200)
    monkeypatch.setattr(Fake, "answer", b'{"ray_version": "2.60.0"}')
    monkeypatch.setattr(Fake, "post", post)
    with pytest.raises(JobError, match=r"^job:http://"):
        submit_job(call_of(tmp_path / "out"), SITE, fake, print)
    assert len(Book.of(str(tmp_path / "out")).receipts()) == kept


def test_a_job_that_is_not_waited_for_keeps_its_receipt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while it is sent."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ray_job, "submit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        submit_job(call_of(tmp_path / "out"), SITE, NOBODY, print)
    assert len(Book.of(str(tmp_path / "out")).receipts()) == 1


def test_where_nobody_answers_nothing_is_left_behind(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"nobody answers .*Connection refused.*; start the cluster"):
        submit_job(call_of(tmp_path / "out"), SITE, NOBODY, print)
    assert Book.of(str(tmp_path / "out")).receipts() == []
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_the_command_line_says_in_one_line_that_nobody_answers(tmp_path: Path) -> None:
    words = ["submit", "generate", "recipes/sandbox.yaml", "--out", str(tmp_path / "out"), "--to", f"job:{NOBODY}"]
    program = [sys.executable, str(home() / "sixfold.py"), *words]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    [line] = without_waits(done.stderr).splitlines()
    assert line.startswith(f"sixfold: job:{NOBODY}: nobody answers")
    assert not (tmp_path / "out").exists()


def test_the_status_says_of_a_job_whose_server_is_gone_that_nobody_can_be_asked(tmp_path: Path) -> None:
    book = Book.of(str(tmp_path / "out"))
    receipt = book.begin(call_of(tmp_path / "out"), "job", NOBODY)
    book.keep(dataclasses.replace(receipt, ids=("sixfold-x-1",)))
    [line] = told_jobs(str(tmp_path / "out"))
    assert line.startswith(f"job sixfold-x-1 of Ray at {NOBODY} cannot be asked for here (job:{NOBODY}: nobody answers")


def test_the_token_is_looked_for_where_ray_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("of home\n")
    (tmp_path / "other").write_text("of a file\n")
    path = {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "other")}
    assert token({}) == ""
    assert token({"RAY_AUTH_MODE": "token"}) == "of home"
    assert token({"RAY_AUTH_MODE": "token", **path}) == "of a file"
    assert token({"RAY_AUTH_TOKEN": "given", **path}) == "given"
    assert token({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")}) == ""


# ---------------------------------------------------------------- a real job server


@pytest.fixture(scope="module")
def server() -> Iterator[JobServer]:
    with job_server() as running:
        yield running


@pytest.fixture
def with_token(server: JobServer, monkeypatch: pytest.MonkeyPatch) -> JobServer:
    monkeypatch.setenv("RAY_AUTH_TOKEN", server.token)
    return server


def wait_for_end(out: Path, seconds: float) -> str:
    """The state in which the newest job has ended."""
    deadline = time.monotonic() + seconds
    while (job := list(jobs_of(Book.of(str(out))))[-1]).lives:
        assert time.monotonic() < deadline, (job.told, tails(job.receipt, 30))
        time.sleep(0.5)
    return job.states[0].state


@pytest.mark.timeout(300)
def test_a_job_is_sent_makes_its_images_and_is_found_by_its_output(
    with_token: JobServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", NOBODY)  # Ray's own client would go there
    out, lines = tmp_path / "out", []
    receipt = submit_job(call_of(out), SITE, with_token.address, lines.append)
    assert receipt.ids[0].startswith("sixfold-sandbox-")
    assert f"sent to the job server at {with_token.address}" in lines[-1]
    assert not list(out.rglob("*.zip"))
    with pytest.raises(
        ValueError, match=rf"job {receipt.ids[0]} of Ray at .* is (pending|running); wait for it, or end"
    ):
        submit_job(call_of(out), SITE, with_token.address, print)
    assert wait_for_end(out, 200) == "SUCCEEDED"
    [job] = jobs_of(Book.of(str(out)))
    assert job.told == f"job {receipt.ids[0]} of Ray at {with_token.address} is succeeded"
    assert len(list(out.glob("*_stats.json"))) == 3
    text, end = tails(receipt, 5)[""]
    assert "60 images in 3 of 3 shards" in text
    assert end > len(text)
    assert cancel_jobs(str(out), print) == 0
    assert with_token.token not in "".join(path.read_text() for path in out.glob("_meta/jobs/*.json"))


def test_a_wrong_token_is_refused_in_a_line(server: JobServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    with pytest.raises(JobError, match=r"^job:http://127.*: the server refused the token; set RAY_AUTH_TOKEN"):
        submit_job(call_of(tmp_path / "out"), SITE, server.address, print)
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    with pytest.raises(JobError, match="found no token, expected the cluster's"):
        submit_job(call_of(tmp_path / "out"), SITE, server.address, print)


def test_a_job_that_the_server_has_forgotten_is_over(with_token: JobServer, tmp_path: Path) -> None:
    book = Book.of(str(tmp_path / "out"))
    receipt = book.begin(call_of(tmp_path / "out"), "job", with_token.address)
    book.keep(dataclasses.replace(receipt, ids=("sixfold-gone-1",)))
    [job] = jobs_of(book)
    assert job.told == f"job sixfold-gone-1 of Ray at {with_token.address} is over"
    assert tails(job.receipt, 5) == {}


@pytest.mark.torture
@pytest.mark.timeout(900)
def test_a_cancelled_job_stops_by_itself_and_the_same_command_goes_on_from_its_shards(
    server: JobServer, tmp_path: Path
) -> None:
    """By the command line, with workers on the cluster: submit, cancel under way, submit again; the first job's shards
    stay as they are."""
    out = tmp_path / "out"
    environment = {**os.environ, "RAY_AUTH_TOKEN": server.token}

    def sixfold(*words: str) -> str:
        program = [sys.executable, str(home() / "sixfold.py"), *words]
        done = subprocess.run(program, capture_output=True, text=True, timeout=300, env=environment, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    submit = ["submit", "generate", "recipes/sandbox.yaml", *CHEAP[1:], "sampler.steps=30", "--scale", "1x"]
    submit += ["--out", str(out), "--to", f"job:{server.address}"]
    assert "sixfold logs" in sixfold(*submit)
    deadline = time.monotonic() + 200
    while not (first := {path: path.read_bytes() for path in out.glob("*_stats.json")}):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert "is running" in sixfold("cancel", str(out))
    assert wait_for_state(out, environment) == "stopped"
    first = {path: path.read_bytes() for path in out.glob("*_stats.json")}
    assert 0 < len(first) < 10
    assert "stopped on request" in sixfold("logs", str(out), "--lines", "200")
    sixfold(*submit)
    said = sixfold("logs", str(out), "--follow")
    assert f"this call made {200 - 20 * len(first)}" in said
    assert {path: path.read_bytes() for path in first} == first
    assert len(json.loads((out / "_meta" / "jobs" / "00002.json").read_text())) > 0


@pytest.mark.torture
@pytest.mark.timeout(600)
def test_a_training_is_a_job_whose_ranks_ray_spreads(with_token: JobServer, tmp_path: Path) -> None:
    write_sets(tmp_path)
    recipe = tmp_path / "small.yaml"
    recipe.write_text(dump_recipe(small_recipe(tmp_path, engine__kind="ddp")))
    out = tmp_path / "out"
    call = Call("train", recipe, "small", str(out))
    receipt = submit_job(call, SiteSpec(nodes=2), with_token.address, print)
    assert wait_for_end(out, 400) == "SUCCEEDED", tails(receipt, 40)
    text, _ = tails(receipt, 40)[""]
    assert "2 ranks on 1 machine" in text
    assert f"{out}: 6 steps" in text


def wait_for_state(out: Path, environment: dict[str, str]) -> str:
    """As another process sees it."""
    program = (
        "import sys\nfrom cluster.submit.book import Book\nfrom cluster.submit.submit import jobs_of\n"
        "print(list(jobs_of(Book.of(sys.argv[1])))[-1].states[0].state.lower())"
    )
    for _ in range(60):
        done = subprocess.run(
            [sys.executable, "-c", program, str(out)], capture_output=True, text=True, timeout=100, env=environment,
            cwd=home(), check=True,
        )  # fmt: skip
        if (state := done.stdout.strip()) != "running":
            return state
        time.sleep(1)
    return state

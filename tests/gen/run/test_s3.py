"""Images on S3: made, verified, streamed and gone on with over its real protocol, also on its bad days."""

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from shards.disk.home import home
from tests.support.s3_server import s3_environment
from tests.support.small_training import small_recipe, train_alone, write_sets
from tests.support.storm import Storm

RECIPE = str(home() / "recipes/sandbox.yaml")
CHEAP = (
    *("sampler.steps=2", "prompts.kind=name", "prompts.per_class=null", "meanings.choose=none"),
    *("shards.samples_per_shard=10", "cluster.in_process=true"),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """moto, in a process of its own, with a bucket."""
    log = tmp_path_factory.mktemp("moto") / "log"
    code = (
        "import time; from moto.server import ThreadedMotoServer\n"
        "server = ThreadedMotoServer(ip_address='127.0.0.1', port=0, verbose=False); server.start()\n"
        "print('http://%s:%d' % server.get_host_and_port(), flush=True); time.sleep(3600)"
    )
    with log.open("wb") as told:
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=told, text=True)
    try:
        assert child.stdout is not None
        address = child.stdout.readline().strip()
        keys = {"key": "testing", "secret": "testing", "client_kwargs": {"endpoint_url": address}}
        fsspec.filesystem("s3", **keys, skip_instance_cache=True).mkdir("bucket")
        yield address
    finally:
        child.kill()
        child.wait(30)


def sixfold(address: str, cwd: Path, *words: str, **environ: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(home() / "sixfold.py"), *words],
        env={**os.environ, **s3_environment(address), **environ},
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def told(child: "subprocess.Popen[str]", code: int = 0, within_s: float = 240) -> str:
    text, _ = child.communicate(timeout=within_s)
    assert child.returncode == code, text
    return text


def generate(out: str, *more: str, scale: str = "0.2x") -> tuple[str, ...]:
    return ("generate", RECIPE, "--scale", scale, "--out", out, "--no-gallery", *CHEAP, *more)


def bytes_of(address: str, out: str) -> dict[str, bytes]:
    """Name -> content of the tars."""
    keys = {"key": "testing", "secret": "testing", "client_kwargs": {"endpoint_url": address}}
    files = fsspec.filesystem("s3", **keys, skip_instance_cache=True)
    return {path.rpartition("/")[2]: files.cat_file(path) for path in files.glob(f"{out.removeprefix('s3://')}/*.tar")}


def test_images_are_made_verified_and_gone_on_with_on_s3(server: str, tmp_path: Path) -> None:
    out = "s3://bucket/plain"
    assert "40 images in 4 of 4 shards" in told(sixfold(server, tmp_path, *generate(out)))
    assert "nothing was left to make" in told(sixfold(server, tmp_path, *generate(out)))
    assert "60 images in 6 of 6 shards; this call made 20" in told(
        sixfold(server, tmp_path, *generate(out, scale="0.3x"))
    )
    assert "6 shards" in told(sixfold(server, tmp_path, "verify", out))
    assert "6 done, 0 damaged" in told(sixfold(server, tmp_path, "status", out))


@pytest.mark.torture
def test_two_runs_that_share_an_output_on_s3_make_each_shard_once(server: str, tmp_path: Path) -> None:
    out = "s3://bucket/shared"
    children = [sixfold(server, tmp_path, *generate(out, "cluster.shared=true")) for _ in range(2)]
    texts = [told(child) for child in children]
    assert all("40 images in 4 of 4 shards" in text for text in texts)
    made = [int(text.partition("this call made ")[2].split()[0]) if "this call made" in text else 0 for text in texts]
    assert sum(made) == 40
    told(sixfold(server, tmp_path, "verify", out))


@pytest.mark.torture
def test_a_second_run_that_does_not_share_waits_for_nobody_and_says_who_writes(server: str, tmp_path: Path) -> None:
    out = "s3://bucket/one"
    first = sixfold(server, tmp_path, *generate(out, scale="1x"))
    assert first.stdout is not None
    while "output:" not in first.stdout.readline():
        assert first.poll() is None
    second = told(sixfold(server, tmp_path, *generate(out, scale="1x")), code=2)
    assert "another run is writing here (host" in second
    first.terminate()
    assert first.wait(60) in (75, 143)


@pytest.mark.torture
def test_storms_of_refusals_and_lost_answers_change_no_byte(server: str, tmp_path: Path) -> None:
    told(sixfold(server, tmp_path, *generate("s3://bucket/calm")))
    seed = random.randrange(10**9)
    print(f"seed {seed}")
    with Storm(server, refused=0.1, unanswered=0.1, seed=seed) as storm:
        for _ in range(5):  # a store that refuses four times in a row may end a run; the same command goes on
            child = sixfold(storm.address, tmp_path, *generate("s3://bucket/storm"))
            text, _ = child.communicate(timeout=240)
            if child.returncode == 0:
                break
            assert "Traceback" not in text
        assert child.returncode == 0, text
        assert storm.happened["unanswered"] >= 1
        assert storm.happened["500"] + storm.happened["503"] >= 1
    assert bytes_of(server, "s3://bucket/storm") == bytes_of(server, "s3://bucket/calm")
    told(sixfold(server, tmp_path, "verify", "s3://bucket/storm"))


@pytest.mark.parametrize(
    ("out", "environ", "line"),
    [
        ("s3://no-such-bucket/x", {}, "s3://no-such-bucket/x: cannot be written"),
        ("s3://bucket/x", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "s3://bucket/x: cannot be"),
    ],
)
def test_a_store_that_cannot_be_used_is_one_line(
    server: str, tmp_path: Path, out: str, environ: dict[str, str], line: str
) -> None:
    text = told(sixfold(server, tmp_path, *generate(out), **environ), code=2)
    (said,) = [one for one in text.splitlines() if one.startswith("sixfold: ")]
    assert line in said
    assert "check the address and the credentials" in said
    assert "testing" not in said


@pytest.mark.torture
def test_a_training_on_shards_in_s3_has_the_bits_of_one_on_a_folder_also_when_it_is_stopped(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_environment(server).items():
        monkeypatch.setenv(name, value)
    fsspec.config.conf.clear()
    write_sets(tmp_path)
    files = fsspec.filesystem("s3")
    for name in ("real", "synthetic", "test", "held-out"):
        files.put(str(tmp_path / name), f"bucket/sets/{name}", recursive=True)
    train_alone(small_recipe(tmp_path), tmp_path / "of folders")
    there = {
        "data__domains__0__source": "s3://bucket/sets/real",
        "data__domains__1__source": "s3://bucket/sets/synthetic",
        "evaluate__validation__source": "s3://bucket/sets/test",
        "evaluate__tests__one__source": "s3://bucket/sets/held-out",
    }
    train_alone(small_recipe(tmp_path, **there), tmp_path / "of s3", looks=4)
    train_alone(small_recipe(tmp_path, **there), tmp_path / "of s3")
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("of folders", "of s3"))
    assert one == two

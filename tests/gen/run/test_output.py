"""What a run keeps in `_meta`: whatever happens to it, it is named, and the same command writes it again."""

import hashlib
import http.server
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import sixfold
from cluster.process.stop_flag import StopFlag
from cluster.process.writers import told_writers, writers_of
from gen.make.outcome import MakeOutcome
from gen.run.recipe import read_recipe
from gen.run.remake import regenerate_images
from gen.run.run import run
from shards.disk.home import home
from shards.disk.store import open_for_reading
from shards.set.manifest import read_subset
from shards.set.status import asked_units, refuse_unfinished, status_of
from shards.set.verify import verify
from tests.support import warm

SMALL = [
    *("sampler.steps=2", "shards.samples_per_shard=10", "sampler.batch=5", "cluster.in_process=true"),
    *("prompts.kind=name", "prompts.per_class=null", "meanings.choose=none"),
]
RECIPE = str(home() / "recipes" / "sandbox.yaml")


def generate(
    out: Path, *overrides: str, scale: str = "0.1", say: Callable[[str], None] = lambda line: None
) -> MakeOutcome:
    return run(read_recipe(Path(RECIPE), [*SMALL, *overrides]), Fraction(scale), str(out), home(), StopFlag(), say=say)


def command(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(sixfold.command_line(), list(words))
    return done.exit_code, done.output + str(done.exception or "")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """0.1x: 20 images in 2 shards, and the subset of half of them."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert generate(out).exit_code == 0
    assert generate(out, scale="0.05").exit_code == 0
    assert generate(out).exit_code == 0
    return out


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with another seed: other prompts, other images."""
    out = tmp_path_factory.mktemp("other") / "out"
    assert generate(out, "seed=1", scale="0.05").exit_code == 0
    return out


def named(out: Path) -> set[tuple[int | None, str, str | None]]:
    return {(one.shard, one.kind, one.member) for one in verify(open_for_reading(str(out))).damages}


def data_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("0*")) if path.suffix in (".tar", ".parquet")}


KEPT = ("run.json", "recipe.yaml", "classes.json", "prompts.parquet", "meanings.jsonl")
DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "lost": lambda data: None,
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "one bit": lambda data: data[:-20] + bytes([data[-20] ^ 1]) + data[-19:],
    "a list": lambda data: b"[]",
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [*KEPT, "summary.json", "subsets/0.1x.json", "subsets/0.1x.parquet"])
def test_k11_what_is_damaged_in_meta_is_named_set_aside_and_written_again(
    whole: Path, out: Path, name: str, damage: str
) -> None:
    path = out / "_meta" / name
    broken = DAMAGES[damage](path.read_bytes())
    path.unlink()
    if broken is not None:
        path.write_bytes(broken)
    member = f"_meta/{name}".replace(".parquet", ".json") if "subsets" in name else f"_meta/{name}"
    if (name, damage) not in (("summary.json", "lost"), ("run.json", "lost")):
        assert named(out) == {(None, "meta", member)}
        code, said = command("verify", str(out))
        assert (code, f"----- meta: {member}: " in said) == (3, True)
        code, said = command("repair", str(out))
        assert (code, f"{member}: " in said, "1 _meta file moved" in said) == (0, True, True)
    outcome = generate(out)
    assert (outcome.exit_code, outcome.made_units) == (0, 0)
    assert command("verify", str(out))[0] == 0
    if name != "summary.json":
        assert path.read_bytes() == (whole / "_meta" / name).read_bytes()
    assert data_of(out) == data_of(whole)


def test_the_same_command_mends_meta_without_a_repair_and_says_so(whole: Path, out: Path) -> None:
    for name in KEPT[1:]:
        (out / "_meta" / name).write_bytes(b"torn")
    said: list[str] = []
    assert generate(out, say=said.append).made_units == 0
    assert any("written again: " in line and "prompts.parquet" in line for line in said)
    assert not named(out)
    (out / "_meta" / "run.json").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"run\.json: found no whole JSON text.*; run `sixfold repair`, then the same"):
        generate(out)


def test_prompts_that_are_not_drawn_the_same_again_are_asked_for_and_the_way_out_is_named(out: Path) -> None:
    known = json.loads((out / "_meta" / "run.json").read_text())
    del known["checksum"], known["files"]
    (out / "_meta" / "run.json").write_text(json.dumps({**known, "prompts_sha256": "0" * 64}))
    with pytest.raises(ValueError, match="bring that file back, or go on in another output folder"):
        generate(out)


def test_meanings_that_nobody_can_choose_again_are_lost_and_the_run_goes_on(whole: Path, out: Path) -> None:
    """Simulated: a model that answers anew, by a table of other prompts under a hash of its own."""
    (out / "_meta" / "meanings.jsonl").unlink()
    known = json.loads((out / "_meta" / "run.json").read_text())
    del known["checksum"]
    other = (out / "_meta" / "prompts.parquet").read_bytes() + b"PAR1"
    (out / "_meta" / "prompts.parquet").write_bytes(other)
    known["prompts_sha256"] = known["files"]["prompts.parquet"] = hashlib.sha256(other).hexdigest()
    (out / "_meta" / "run.json").write_text(json.dumps(known))
    said: list[str] = []
    assert generate(out, say=said.append).made_units == 0
    assert any("written again: none; lost: meanings.jsonl" in line for line in said)
    assert not named(out)


def test_a_run_json_that_was_lost_is_made_again_only_by_the_recipe_of_the_shards(whole: Path, out: Path) -> None:
    (out / "_meta" / "run.json").unlink()
    before = {name: (out / "_meta" / name).read_bytes() for name in KEPT[1:]}
    with pytest.raises(
        ValueError, match=r"found 2 shards of run \w{12} and no _meta/run\.json, expected shards of this"
    ):
        generate(out, "seed=1")
    assert {name: (out / "_meta" / name).read_bytes() for name in KEPT[1:]} == before
    assert not (out / "_meta" / "run.json").exists()
    assert generate(out).made_units == 0
    assert (out / "_meta" / "run.json").read_bytes() == (whole / "_meta" / "run.json").read_bytes()


def test_the_run_json_of_another_set_is_the_stranger_and_not_the_shards(whole: Path, other: Path, out: Path) -> None:
    shutil.copy(other / "_meta" / "run.json", out / "_meta" / "run.json")
    found = named(out)
    assert (None, "meta", "_meta/run.json") in found
    assert {kind for _, kind, _ in found} == {"meta"}, "no shard is called damaged"
    assert command("repair", str(out))[0] == 0
    assert generate(out).made_units == 0
    assert not named(out)
    assert data_of(out) == data_of(whole)


def test_a_whole_shard_of_another_run_is_named_set_aside_and_made_again(whole: Path, other: Path, out: Path) -> None:
    for path in other.glob("00000*"):
        shutil.copy(path, out / path.name)
    assert (0, "stranger", "00000_stats.json") in named(out)
    state = status_of(open_for_reading(str(out)), None)
    assert not state.is_whole
    assert "1 done, 1 damaged: 00000" in state.text
    assert "run `sixfold repair`, then the command that makes the set" in state.text
    with pytest.raises(ValueError, match=r"00000_stats\.json: found a shard of run .*; run `sixfold repair`, then"):
        generate(out)
    code, said = command("repair", str(out))
    assert (code, "shard 00000: moved to _meta/quarantine/000001" in said) == (0, True)
    assert generate(out).made_units == 1
    assert data_of(out) == data_of(whole)
    assert not named(out)


def test_k11_a_subset_copied_under_another_name_is_refused_and_written_again(out: Path) -> None:
    """Also by its rule alone, for sets of earlier versions, which stored no name."""
    store = open_for_reading(str(out))
    folder = out / "_meta" / "subsets"
    assert len(read_subset(store, "0.1x")[0]) == 2 * len(read_subset(store, "0.05x")[0])
    for forget in ((), ("checksum", "name")):
        for suffix in ("json", "parquet"):
            shutil.copy(folder / f"0.05x.{suffix}", folder / f"0.1x.{suffix}")
        about = json.loads((folder / "0.1x.json").read_text())
        (folder / "0.1x.json").write_text(json.dumps({key: about[key] for key in about if key not in forget}))
        with pytest.raises(ValueError, match=r"found the subset '0\.05x' under this name, expected '0\.1x'"):
            read_subset(store, "0.1x")
        assert named(out) == {(None, "meta", "_meta/subsets/0.1x.json")}
        assert generate(out).made_units == 0
        assert len(read_subset(store, "0.1x")[0]) == 20


def test_a_data_set_of_an_earlier_version_opens_verifies_and_goes_on_and_what_is_not_covered_is_said(out: Path) -> None:
    meta = out / "_meta"
    for name in ("run.json", "summary.json", "subsets/0.1x.json", "subsets/0.05x.json"):
        body = json.loads((meta / name).read_text())
        earlier = {key: value for key, value in body.items() if key not in ("checksum", "files", "name")}
        (meta / name).write_text(json.dumps(earlier))
    (meta / "classes.json").unlink()
    code, said = command("verify", str(out))
    assert (code, "most of _meta is not covered" in said) == (0, True)
    assert generate(out).made_units == 0
    assert generate(out, scale="0.2").made_units == 2
    assert command("verify", str(out))[0] == 0
    assert all(one.same_bytes for one in regenerate_images(open_for_reading(str(out)), 2, seed=0))


def test_a_killed_call_is_known_by_what_it_was_asked_for_and_nobody_trains_on_the_rest_unasked(tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ["--scale", "0.2x", "--out", str(out), "--no-gallery"]
    process = warm.start(["-m", "sixfold", "generate", RECIPE, *options, *SMALL])
    deadline = time.monotonic() + 280
    while not (out / "_meta" / "summary.json").exists():
        assert process.poll() is None, process.said()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait(timeout=60)
    generate(out, scale="0.05")  # so that a shard is there, whenever the other was killed
    (out / "_meta" / "summary.json").write_bytes(
        json.dumps({"scale": "0.2x", "asked": {"images": 40, "units": 4}, "exit_code": None}).encode()
    )
    store = open_for_reading(str(out))
    assert asked_units(store) == range(4)
    state = status_of(store, told_writers(writers_of(store)))
    assert not state.is_whole
    assert "of them missing" in state.text
    assert "it never came to its end" in state.text
    assert "writer    nobody now" in state.text
    with pytest.raises(ValueError, match=r"data\.domains\.x .*found \d of the 4 shards that the last call"):
        refuse_unfinished(str(out), "data.domains.x")
    assert generate(out, scale="0.2").exit_code == 0
    refuse_unfinished(str(out), "data.domains.x")


def test_generate_does_not_go_on_in_an_import_and_leaves_it_as_it_was(tmp_path: Path) -> None:
    line = ["export", str(home() / "sandbox" / "real-train"), "--to", "shards", "--out", str(tmp_path / "out")]
    assert command(*line)[0] == 0
    before = data_of(tmp_path / "out")
    with pytest.raises(ValueError, match="found a data set that an import or `sixfold retrieve` began, expected"):
        generate(tmp_path / "out")
    assert command(*line)[0] == 0, "the same import goes on"
    assert data_of(tmp_path / "out") == before
    assert command("verify", str(tmp_path / "out"))[0] == 0


@pytest.fixture
def trap() -> Iterator[tuple[str, list[str]]]:
    """A web server that must not be asked: its address, and what it was asked for."""
    asked: list[str] = []

    class Trap(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Trap)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/classes", asked
    server.shutdown()


@pytest.mark.parametrize("stored", [True, False], ids=["with its classes", "of an earlier version"])
def test_no_address_that_a_data_set_names_is_called_to_make_images_again(
    out: Path, trap: tuple[str, list[str]], stored: bool
) -> None:
    url, asked = trap
    meta = out / "_meta"
    recipe = yaml.safe_load((meta / "recipe.yaml").read_text())
    recipe["classes"]["source"] = url
    recipe["llm"] = {**recipe["llm"], "provider": "openai", "model": "m", "base_url": url}
    (meta / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    known = json.loads((meta / "run.json").read_text())
    known["identity"]["classes"]["source"] = url
    known["identity"]["llm"] |= {"provider": "openai", "model": "m"}
    del known["checksum"], known["files"]
    (meta / "run.json").write_text(json.dumps(known))
    if stored:
        assert all(one.same_bytes for one in regenerate_images(open_for_reading(str(out)), 2, seed=0))
    else:
        (meta / "classes.json").unlink()
        with pytest.raises(
            ValueError, match=r"its classes are at http://127\.0\.0\.1:.*, an address that the data set"
        ):
            regenerate_images(open_for_reading(str(out)), 2, seed=0)
    assert asked == []

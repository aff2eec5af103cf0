"""`sixfold train --ranks N`: what one process trains, several over Ray train too; how they stop, go on and fail."""

import fcntl
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import torch

from cluster.fan_out.ray_session import ClusterError, ray_session
from cluster.fan_out.work import FanOutSpec
from cluster.process.lives import lives_of
from cluster.process.stop_flag import StopFlag
from cluster.ranks.host import free_port
from cluster.recipes.load import dump_recipe
from shards.disk.store import FolderStore
from tests.support import warm
from tests.support.rank_environment import rank_environment
from tests.support.small_training import SMOOTH, as_weights, last_state, small_recipe, train_alone, write_sets
from tests.support.waits import without_waits
from train.recipe import check_ranks
from train.session.over_ray import RayOutcome, train_over_ray

pytestmark = pytest.mark.timeout(1200)  # some wait for three commands in turn
TOLERANCE = 2e-6  # of weights, after four steps in fp32: sums over ranks are taken in another order
LONG = {"schedule__steps": 400, "schedule__epoch_steps": 200}
PARTS = ("model.safetensors", "ema.safetensors", "optimizer.safetensors")


def test_ray_that_does_not_start_is_said_with_a_way_that_a_training_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**options: Any) -> None:
        raise RuntimeError("no room in /dev/shm")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(
        ClusterError, match=r"no room in /dev/shm.*, or start the ranks with torchrun or srun"
    ) as caught:
        train_over_ray(recipe(), tmp_path / "run", 2, StopFlag(), lambda line: None)
    assert "in_process" not in str(caught.value)


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """What a command needs in its environment to join it."""
    with ray_session(FanOutSpec(workers=2, gpus_per_worker=0), 1, StopFlag()):
        yield {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands are called: the recipes name data below it."""
    folder = tmp_path_factory.mktemp("caller")
    write_sets(folder / "sets")
    (folder / "recipe.yaml").write_text(dump_recipe(recipe()))
    return folder


def recipe(**changes: Any) -> Any:
    """With relative paths."""
    return small_recipe(Path("sets"), **{"engine__kind": "ddp", **LONG, **changes})


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """A training that nobody disturbed; the ranks are started as torchrun would."""
    port, words = free_port(), ["-m", "train.program", "recipe.yaml", "whole"]
    ranks = [warm.start(words, folder, rank_environment(rank, 2, port)) for rank in range(2)]
    assert [rank.wait(timeout=280) for rank in ranks] == [0, 0], ranks[0].said()
    return folder / "whole"


def command(folder: Path, out: str, environment: dict[str, str], *overrides: str) -> warm.Child:
    words = ["-m", "sixfold", "train", "recipe.yaml", "--ranks", "2", "--out", out, *overrides]
    return warm.start(words, folder, environment)


def wait_for_steps(out: Path, child: warm.Child) -> None:
    deadline = time.monotonic() + 280
    log = out / "log.jsonl"
    while not (log.is_file() and '"kind": "train"' in log.read_text()):
        assert time.monotonic() < deadline
        assert child.poll() is None, child.said()
        time.sleep(0.02)


def rank_process(out: str, rank: int) -> psutil.Process:
    """The process of a rank that trains into this folder."""
    for process in psutil.process_iter():
        try:
            if process.cmdline()[-1:] == [out] and process.environ().get("RANK") == str(rank):
                return process
        except psutil.Error:
            continue
    raise AssertionError(f"no rank {rank} of {out}")


def test_two_ranks_over_ray_train_what_one_process_trains(
    cluster: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    lines: list[str] = []
    short = SMOOTH
    outcome = train_over_ray(recipe(**short), Path("two"), 2, StopFlag(), lines.append)
    assert outcome.line.startswith("two: 4 steps, ")
    assert any(line.startswith("step 2: validation top-1") for line in lines)
    assert train_alone(recipe(**short, engine__kind="single"), Path("one")).exit_code == 0
    for part in PARTS:
        two, one = as_weights(Path("two"), part), as_weights(Path("one"), part)
        assert two.keys() == one.keys()
        for name in two:
            assert torch.allclose(two[name].double(), one[name].double(), rtol=0, atol=TOLERANCE), name


def test_c1_d11_a_signal_to_the_command_saves_and_the_same_command_goes_on_to_the_same_bits(
    cluster: dict[str, str], folder: Path, whole: Path
) -> None:
    child = command(folder, "stopped", cluster)
    wait_for_steps(folder / "stopped", child)
    child.send_signal(signal.SIGTERM)
    out, said = child.communicate(timeout=280)
    assert child.returncode == 75, said
    assert "of 400 (SIGTERM) and saved; the same command goes on" in out
    (state,) = (folder / "stopped" / "checkpoints").glob("*/state.json")
    assert 1 <= json.loads(state.read_text())["step"] < 400
    child = command(folder, "stopped", {**cluster, "SLURM_JOB_ID": "81", "SLURM_RESTART_COUNT": "1"})
    out, said = child.communicate(timeout=280)
    assert child.returncode == 0, said
    assert out.splitlines()[-1].startswith("stopped: 400 steps, ")
    assert "going on from stopped/checkpoints/step-" in said
    for part in (*PARTS, "ranks.safetensors"):
        again, once = last_state(folder / "stopped", part), last_state(whole, part)
        assert all(torch.equal(again[name], once[name]) for name in once), part
    assert len(list((folder / "stopped" / "logs").iterdir())) == 2, "each life has its own"
    first, second = lives_of(FolderStore(folder / "stopped", read_only=True))
    assert first.end is not None
    assert (first.end.exit_code, first.end.reason, first.end.there) == (75, "stopped: SIGTERM", second.before)
    assert first.slurm is None
    assert second.slurm is not None
    assert (second.slurm.job, second.slurm.restarts) == ("81", 1), "of the command, though the ranks are Ray's"


def test_b3_ranks_of_a_killed_command_save_and_end(cluster: dict[str, str], folder: Path) -> None:
    child = command(folder, "left", cluster, "schedule.steps=100000", "schedule.epoch_steps=100000")
    wait_for_steps(folder / "left", child)
    ranks = [rank_process("left", rank) for rank in (0, 1)]
    child.kill()
    child.communicate(timeout=60)
    assert not psutil.wait_procs(ranks, timeout=120)[1]
    assert len(list((folder / "left" / "checkpoints").glob("*/state.json"))) == 1


def test_d5_a_folder_that_is_taken_is_refused_before_any_rank_is_started(cluster: dict[str, str], folder: Path) -> None:
    """What one rank alone finds later ends all of them: tests/cluster/ranks/test_over_ray.py."""
    (folder / "taken").mkdir()
    with (folder / "taken" / "run.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        child = command(folder, "taken", cluster)
        said = child.communicate(timeout=280)[1]
    assert child.returncode == 2
    assert said.splitlines()[-1] == (
        "sixfold: taken: found another training at work in this folder, expected none; wait for it, or take another "
        "folder"
    )
    assert [path.name for path in (folder / "taken").iterdir()] == ["run.lock"]


# what is refused before anything starts


@pytest.mark.parametrize(
    ("ranks", "changes", "said"),
    [
        (2, {"engine__kind": "single"}, r"engine\.kind: found single with 2 processes, expected one; set engine\.kind"),
        (3, {}, r"schedule\.groups: found 2 groups for 3 ranks, expected a multiple of the ranks"),
    ],
)
def test_ranks_that_cannot_share_a_recipe_are_refused(ranks: int, changes: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_ranks(recipe(**changes), ranks)
    check_ranks(recipe(engine__kind="single"), 1)
    check_ranks(recipe(), 2)


def test_a_mistake_is_one_line_and_a_dry_run_says_what_would_be_done(folder: Path) -> None:
    environment = {"RAY_ADDRESS": "nowhere:1"}
    rank = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    child = command(folder, "never", {**environment, **rank})
    out, said = child.communicate(timeout=200)
    assert all(line.startswith(("data.domains.", "evaluate.")) for line in out.splitlines()), "the sources"
    assert without_waits(said) == (
        "sixfold: --ranks: found a process that torchrun started as rank 0 of 1, expected none; leave --ranks out, or "
        "start without torchrun\n"
    )
    assert child.returncode == 2
    child = command(folder, "never", environment, "schedule.groups=4", "--dry-run")
    out, said = child.communicate(timeout=200)
    assert (child.returncode, without_waits(said)) == (0, "")
    assert next(line for line in out.splitlines() if not line.startswith(("# data.", "# evaluate."))) == (
        "# 2 ranks over Ray on the cluster at nowhere:1, each with 1 core and one GPU where there are GPUs; 2 of 4 "
        "groups of 8 images a step on each; their output in never/logs"
    )
    assert "groups: 4" in out
    assert not (folder / "never").exists()


def test_a_stop_before_the_ranks_begin_is_said(
    cluster: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    stop = StopFlag()
    stop.request("SIGUSR1")
    outcome = train_over_ray(recipe(), Path("early"), 2, stop, print)
    line = "early: stopped before the ranks had begun (SIGUSR1); the same command goes on"
    assert outcome == RayOutcome(75, line, is_good=True)

"""Engines: the same numbers from one process, DDP and DeepSpeed; two ranks that stop, fail and go on together."""

import contextlib
import fcntl
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cluster.process.exit import EXIT_FOLLOWED
from cluster.ranks.group import Ranks
from cluster.ranks.host import free_port
from cluster.ranks.place import find_place
from cluster.recipes.load import dump_recipe
from shards.stream.index import load_index
from tests.shards.stream.test_stream import damage
from tests.support import warm
from tests.support.rank_environment import rank_environment
from tests.support.rank_pair import Pair
from tests.support.small_training import NEVER, SMOOTH, as_weights, last_state, small_recipe, train_alone, write_sets
from tests.support.train_ranks import NUM_RANKS
from train.model.classifiers import ModelSpec, build
from train.model.engine import ENGINES, EngineSpec, make_engine
from train.model.optim import KEPT, OptimSpec

pytestmark = pytest.mark.timeout(1200)  # the first test waits for all trainings of `pair`, on a busy machine
TOLERANCE = 2e-6  # of weights, after four steps in fp32: sums over ranks are taken in another order
CPU = torch.device("cpu")


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name].detach().double() - other[name].detach().double()).abs().max()) for name in one)


# two ranks: one pair of processes does all trainings


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    write_sets(folder)
    return folder


@pytest.fixture(scope="module")
def pair(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    pair = Pair(tmp_path_factory.mktemp("pair"))
    ddp = small_recipe(data, engine__kind="ddp", **SMOOTH)
    pair.add("ddp", [ddp] * 2, "ddp")
    for zero in (0, 1, 2):
        spread = small_recipe(data, engine__kind="deepspeed", engine__zero=zero, **SMOOTH)
        pair.add(f"zero{zero}", [spread] * 2, f"zero{zero}")
    half = small_recipe(data, engine__kind="deepspeed", engine__zero=1, engine__dtype="bf16", **SMOOTH)
    pair.add("half", [half] * 2, "half")
    # stopped by one rank's flag alone, then gone on with
    pair.add("stopped", [ddp] * 2, "again", stop=(NEVER, 3))
    pair.add("again", [ddp] * 2, "again")
    one = small_recipe(data, engine__kind="deepspeed", engine__zero=1, **SMOOTH)
    pair.add("zero-stopped", [one] * 2, "changed", stop=(4, NEVER))
    pair.add("changed", [ddp] * 2, "changed")
    momentum = {"optim__optimizer": "adamw", "optim__lr": 0.003, "model__bn": "rank"}
    adam = small_recipe(data, engine__kind="deepspeed", engine__zero=2, **momentum)
    pair.add("adam", [adam] * 2, "adam")
    pair.add("adam-stopped", [adam] * 2, "adam-again", stop=(2, NEVER))
    pair.add("adam-again", [adam] * 2, "adam-again")
    # the second rank sees other data than the first; both wait for long, unless they hear of it
    patient = small_recipe(data, engine__kind="ddp", engine__deadline_s=300.0)
    bad = small_recipe(data, engine__kind="ddp", model__num_classes=3, evaluate__validation=None, evaluate__tests={})
    lost = patient.model_copy(
        update={
            "data": patient.data.model_copy(
                update={
                    "domains": (
                        patient.data.domains[0].model_copy(update={"source": str(data / "nowhere")}),
                        patient.data.domains[1],
                    )
                }
            )
        }
    )
    pair.add("lost", [patient, lost], "lost")
    pair.add("misspelt", [patient, dump_recipe(patient).replace("clip_grad:", "clip_grat:")], "misspelt")
    pair.add("bad", [bad, bad], "bad")
    # samples that cannot be read: some, and too many of them
    shutil.copytree(data, pair.folder / "damaged")
    damage(pair.folder / "damaged" / "synthetic", [2, 5, 11, 16, 22, 27])
    some = small_recipe(pair.folder / "damaged", engine__kind="ddp", data__bad_rate=1.0, schedule__steps=15)
    pair.add("damaged", [some] * 2, "damaged-run")
    pair.add("damaged-stopped", [some] * 2, "damaged-again", stop=(5, NEVER))
    pair.add("damaged-again", [some] * 2, "damaged-again")
    # disks without room for checkpoints
    often = small_recipe(data, engine__kind="ddp", schedule__steps=60, checkpoint__every_min=1e-9, checkpoint__keep=1)
    pair.add("refusing", [often] * 2, "refusing", disk="refusing")
    full = small_recipe(data, engine__kind="ddp", engine__deadline_s=300.0, checkpoint__every_min=1e-9)
    pair.add("full", [full] * 2, "full", disk="full")
    pair.run()
    return pair


@pytest.mark.torture
@pytest.mark.timeout(900)
def test_d11_two_ranks_stopped_at_twenty_random_steps_end_with_the_same_bits(data: Path, tmp_path: Path) -> None:
    seed = int(os.environ.get("SEED", "0"))
    print(f"seed {seed}")
    rng = random.Random(seed)
    # 20 lives of at most 9 steps each do not reach the end
    recipe = small_recipe(data, engine__kind="ddp", schedule__steps=200, schedule__epoch_steps=40, model__bn="rank")
    pair = Pair(tmp_path)
    pair.add("whole", [recipe] * 2, "whole")
    for number in range(20):
        looks = [NEVER, NEVER]
        looks[int(rng.random() * 2)] = 1 + int(rng.random() * 9)
        pair.add(f"life{number}", [recipe] * 2, "again", stop=(looks[0], looks[1]))
    pair.add("last", [recipe] * 2, "again")
    pair.run()
    assert [pair.said(f"life{number}") for number in range(20)] == [["75", "75"]] * 20
    assert pair.said("last") == ["0", "0"]
    for part in ("model.safetensors", "ema.safetensors", "optimizer.safetensors", "ranks.safetensors"):
        assert difference(last_state(tmp_path / "again", part), last_state(tmp_path / "whole", part)) == 0, part


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process, the same global batch."""
    out = tmp_path_factory.mktemp("alone") / "run"
    assert train_alone(small_recipe(data, **SMOOTH), out).exit_code == 0
    return out


@pytest.mark.parametrize("name", ["ddp", "zero0", "zero1", "zero2"])
def test_two_ranks_of_any_engine_train_what_one_process_trains(pair: Pair, alone: Path, name: str) -> None:
    assert pair.said(name) == ["0", "0"]
    for part in ("model.safetensors", "ema.safetensors", "optimizer.safetensors"):
        assert difference(as_weights(pair.folder / name, part), as_weights(alone, part)) < TOLERANCE, part


def test_half_precision_trains_near_the_full_one_and_keeps_fp32_tensors(pair: Pair, alone: Path) -> None:
    assert pair.said("half") == ["0", "0"]
    found = last_state(pair.folder / "half")
    assert {tensor.dtype for tensor in found.values()} == {torch.float32, torch.int64}
    start = build(ModelSpec(name=SMOOTH["model__name"], num_classes=5, bn="group"), (4, 4), 3, 32).state_dict()
    moved = [name for name in start if start[name].is_floating_point() and "running" not in name]
    way = difference({name: start[name] for name in moved}, {name: last_state(alone)[name] for name in moved})
    off = difference({name: found[name] for name in moved}, {name: last_state(alone)[name] for name in moved})
    assert 0 < off < way / 2  # a run that never moved is off by the whole way
    assert difference(found, last_state(alone)) < 0.1


def test_one_rank_that_is_asked_to_stop_stops_and_saves_for_all(pair: Pair) -> None:
    assert pair.said("stopped") == ["75", "75"]


def test_d11_two_ranks_go_on_to_the_same_bits(pair: Pair) -> None:
    assert pair.said("again") == ["0", "0"]
    for part in ("model.safetensors", "ema.safetensors", "optimizer.safetensors", "ranks.safetensors"):
        assert difference(last_state(pair.folder / "again", part), last_state(pair.folder / "ddp", part)) == 0, part


def test_d11_split_state_of_zero_goes_on_to_the_same_bits(pair: Pair) -> None:
    assert pair.said("adam-stopped") == ["75", "75"]
    for part in ("model.safetensors", "ema.safetensors", "optimizer.safetensors", "ranks.safetensors"):
        assert difference(last_state(pair.folder / "adam-again", part), last_state(pair.folder / "adam", part)) == 0


def test_a_checkpoint_of_zero_goes_on_under_ddp(pair: Pair, alone: Path) -> None:
    assert pair.said("zero-stopped") == ["75", "75"]
    assert pair.said("changed") == ["0", "0"]
    assert difference(last_state(pair.folder / "changed"), last_state(alone)) < TOLERANCE


def test_a_checkpoint_of_two_ranks_goes_on_in_one_process(pair: Pair, data: Path, alone: Path, tmp_path: Path) -> None:
    shutil.copytree(pair.folder / "again", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-000004")
    (tmp_path / "run" / "model.json").unlink()
    assert train_alone(small_recipe(data, **SMOOTH), tmp_path / "run").exit_code == 0
    assert difference(last_state(tmp_path / "run"), last_state(alone)) < TOLERANCE


def test_statistics_are_equal_on_all_ranks_at_the_end(pair: Pair) -> None:
    rows = last_state(pair.folder / "adam", "ranks.safetensors")
    assert rows.keys() == {"model", "ema"}
    for tensor in rows.values():
        assert len(tensor) == NUM_RANKS
        assert torch.equal(tensor[0], tensor[1])


def test_d5_an_error_on_one_rank_ends_both_with_its_cause(pair: Pair) -> None:
    first, second = pair.said("lost")
    assert "nowhere" in first
    assert first.startswith("rank 1: ")
    assert "nowhere" in second
    assert pair.seconds("lost") < 150


def test_d5_a_recipe_that_one_rank_cannot_read_ends_both_before_they_train(pair: Pair) -> None:
    first, second = pair.said("misspelt")
    assert first.startswith("rank 1: ")
    assert first.endswith(second)
    assert "unknown key `optim.clip_grat`; did you mean `clip_grad`?" in second
    assert pair.seconds("misspelt") < 150


def test_d6_what_all_ranks_see_ends_all_with_one_cause(pair: Pair) -> None:
    assert all("set model.num_classes" in text for text in pair.said("bad"))


def named(run: Path, rank: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / f"replaced-{rank}.jsonl").read_text().splitlines()]


def state_of(run: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((sorted((run / "checkpoints").iterdir())[-1] / "state.json").read_text())
    return state


def test_d6_a_bad_shard_costs_no_rank_a_step_and_each_names_its_samples(pair: Pair) -> None:
    assert pair.said("damaged") == ["0", "0"]
    run = pair.folder / "damaged-run"
    state = state_of(run)
    assert state["step"] == 15
    counts = [len(named(run, rank)) for rank in range(NUM_RANKS)]
    assert [sum(own.values()) for own in state["replaced"]] == counts
    assert min(counts) > 0
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["replaced"] == sum(counts)
    assert [row["samples"] for row in rows if row["kind"] == "replaced"][-1] == sum(counts)
    assert len({row["uid"] for rank in range(NUM_RANKS) for row in named(run, rank)}) <= 6


def test_d6_bad_samples_are_counted_over_a_stop(pair: Pair) -> None:
    assert (pair.said("damaged-stopped"), pair.said("damaged-again")) == (["75", "75"], ["0", "0"])
    whole, again = pair.folder / "damaged-run", pair.folder / "damaged-again"
    assert state_of(again)["replaced"] == state_of(whole)["replaced"]
    assert [named(again, rank) for rank in range(NUM_RANKS)] == [named(whole, rank) for rank in range(NUM_RANKS)]


def test_d6_too_many_bad_samples_on_any_rank_end_all_with_the_cause(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "damaged")
    damage(tmp_path / "damaged" / "synthetic", [2, 5, 11, 16, 22, 27])
    few = small_recipe(tmp_path / "damaged", engine__kind="ddp", schedule__steps=60)
    (tmp_path / "recipe.yaml").write_text(dump_recipe(few))
    said = [child.communicate(timeout=300)[0] for child in start_pair(tmp_path, tmp_path / "run")]
    assert all("unreadable of" in text and "run `sixfold verify " in text for text in said)


def test_d7_a_disk_that_refuses_each_call_in_turn_costs_two_ranks_only_checkpoints(pair: Pair) -> None:
    assert pair.said("refusing") == ["0", "0"]
    run = pair.folder / "refusing"
    kinds = [json.loads(line)["kind"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert kinds.count("not_saved") > 20
    assert kinds.count("saved") + kinds.count("not_saved") == 60
    (folder,) = (run / "checkpoints").iterdir()
    assert folder.name == "step-000060"


def test_d7_a_last_checkpoint_without_room_ends_both_ranks_with_the_cause(pair: Pair) -> None:
    first, second = pair.said("full")
    assert "No space left on device" in first
    assert second.startswith("rank 0: ")
    assert "No space left on device" in second
    assert pair.seconds("full") < 150


def killed(data: Path, folder: Path, kills: int, seed: int) -> None:
    """One of two ranks, or both, get SIGKILL so often; then the training ends with the bits of an undisturbed one."""
    print(f"seed {seed}")
    rng = random.Random(seed)
    recipe = small_recipe(
        data,
        engine__kind="ddp",
        engine__deadline_s=120.0,
        schedule__steps=20 * kills,
        schedule__epoch_steps=20,
        checkpoint__every_min=1e-9,
        model__bn="rank",
    )
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    undisturbed = start_pair(folder, folder / "whole")
    assert [child.wait(timeout=300) for child in undisturbed] == [0, 0]
    log = folder / "again" / "log.jsonl"
    for _ in range(kills):
        before = log.read_text().count('"saved"') if log.exists() else 0
        children = start_pair(folder, folder / "again")
        deadline = time.monotonic() + 300
        wanted = before + 1 + int(rng.random() * 6)
        while not log.exists() or log.read_text().count('"saved"') < wanted:
            assert time.monotonic() < deadline
            assert all(child.poll() is None for child in children)
            time.sleep(0.002)
        time.sleep(rng.random() * 0.05)
        victims = [(0,), (1,), (0, 1)][int(rng.random() * 3)]
        for rank in victims:
            children[rank].kill()
        codes = [child.wait(timeout=200) for child in children]
        assert all(
            codes[rank] == (-signal.SIGKILL if rank in victims else EXIT_FOLLOWED) for rank in range(NUM_RANKS)
        ), codes
    last = start_pair(folder, folder / "again")
    assert [child.wait(timeout=300) for child in last] == [0, 0]
    for part in ("model", "ema", "optimizer", "ranks", "chosen"):
        name = f"{part}.safetensors"
        assert difference(last_state(folder / "again", name), last_state(folder / "whole", name)) == 0, part


def start_pair(folder: Path, out: Path) -> list[warm.Child]:
    port = free_port()
    words = ["-m", "train.program", str(folder / "recipe.yaml"), str(out)]
    return [warm.start(words, environment=rank_environment(rank, NUM_RANKS, port)) for rank in range(NUM_RANKS)]


def test_d5_an_index_that_takes_longer_to_build_than_ranks_wait_for_each_other_ends_none(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process builds it; both ranks wait at its lock, not one of them in a collective call."""
    shutil.copytree(data, tmp_path / "sets")
    recipe = small_recipe(tmp_path / "sets", engine__kind="ddp", engine__deadline_s=120.0, schedule__steps=1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    load_index(str(tmp_path / "sets" / "real"))
    [lock] = (tmp_path / "cache" / "sixfold" / "index").glob("*/lock")
    for saved in lock.parent.glob("*/"):
        shutil.rmtree(saved)
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    with lock.open("r+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        children = start_pair(tmp_path, tmp_path / "run")
        try:
            deadline = time.monotonic() + 300
            while not all(has_open(child.pid, lock) for child in children):
                assert [child.poll() for child in children] == [None, None]
                assert time.monotonic() < deadline
                time.sleep(0.01)
            fcntl.flock(held, fcntl.LOCK_UN)
            said = [child.communicate(timeout=300)[1] for child in children]
        finally:
            for child in children:
                child.kill()
    assert [child.returncode for child in children] == [0, 0], said


def has_open(pid: int, file: Path) -> bool:
    found = []
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.append(os.readlink(link))
    return str(file.resolve()) in found


def test_d11_two_ranks_of_which_any_is_killed_end_with_the_same_bits(data: Path, tmp_path: Path) -> None:
    killed(data, tmp_path, 2, int(os.environ.get("SEED", "0")))


@pytest.mark.torture
@pytest.mark.timeout(3000)
def test_d11_two_ranks_killed_twenty_times_end_with_the_same_bits(data: Path, tmp_path: Path) -> None:
    killed(data, tmp_path, 20, int(os.environ.get("SEED", "0")))


# one process


def an_engine(kind: str, zero: int = 0, **optim: Any) -> Any:
    model = build(ModelSpec(name="sandbox_resnet", num_classes=4), (4, 4), 0, 32)
    spec = EngineSpec.model_validate({"kind": kind, "zero": zero})
    chosen = OptimSpec.model_validate({"lr": 0.01, **optim})
    return make_engine(spec, chosen, model, CPU, 8)


def pictures(step: int) -> Tensor:
    return torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(step))


def test_engines_are_three() -> None:
    assert list(ENGINES) == ["single", "ddp", "deepspeed"]


@pytest.mark.parametrize(("kind", "zero"), [("single", 0), ("ddp", 0), ("deepspeed", 0), ("deepspeed", 2)])
def test_d15_a_gradient_that_is_not_finite_changes_neither_weights_nor_optimiser(kind: str, zero: int) -> None:
    with Ranks(find_place({})) as ranks:
        ranks.open(CPU, 30, alone_too=True)
        engine = an_engine(kind, zero)
        assert engine.step([lambda: engine.forward(pictures(0)).square().mean()], 0.01)
        weights = {name: p.detach().clone() for name, p in engine.model.named_parameters()}
        optimizer = engine.optimizer_state()
        logits = engine.forward(pictures(1))
        assert not engine.step(
            [lambda: (logits - logits.detach()).sqrt().sum()], 0.01
        )  # the loss is 0, its gradient is not
        assert difference(weights, dict(engine.model.named_parameters())) == 0
        assert difference(optimizer, engine.optimizer_state()) == 0
        assert engine.step([lambda: engine.forward(pictures(2)).square().mean()], 0.01)
        assert difference(weights, dict(engine.model.named_parameters())) > 0


@pytest.mark.parametrize("optimizer", list(KEPT))
def test_d13_every_missing_tensor_of_the_optimiser_is_named(optimizer: str) -> None:
    engine = an_engine("single", optimizer=optimizer)
    engine.step([lambda: engine.forward(pictures(0)).square().mean()], 0.01)
    whole = engine.optimizer_state()
    for name in whole:
        with pytest.raises(ValueError, match="found nothing for") as caught:
            engine.load_optimizer({other: tensor for other, tensor in whole.items() if other != name})
        assert name in str(caught.value)
    engine.load_optimizer(whole)
    assert difference(whole, engine.optimizer_state()) == 0


@pytest.mark.torture
@pytest.mark.timeout(900)
def test_a_compiled_model_trains_what_the_plain_one_trains(data: Path, alone: Path, tmp_path: Path) -> None:
    recipe = small_recipe(data, engine__compile=True)
    assert train_alone(recipe, tmp_path / "run").exit_code == 0
    assert difference(last_state(tmp_path / "run"), last_state(alone)) < 1e-4

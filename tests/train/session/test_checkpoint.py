"""Checkpoints: whole or not there, whatever fails in between."""

import errno
import hashlib
import json
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from shards.disk.file_calls import OsDisk
from tests.support.faulty_disk import ACTIONS, FaultyDisk, FullDisk, Killed, RefusingDisk
from tests.support.small_training import small_recipe, train_alone, write_sets
from train.session import checkpoint
from train.session.checkpoint import MARKER, clear_incomplete, find, keep_newest, read, save
from train.session.run_state import VERSION, RunState, part_names, read_state

PARTS = [("model.safetensors", bytes(range(256)) * 3), ("state.json", b'{"step":7}')]
ACTIONS_OF_A_SAVE = [action for action in ACTIONS if action not in ("EACCES", "EROFS", "EAGAIN")]


def parts(step: int) -> list[tuple[str, bytes]]:
    return [(name, data + str(step).encode()) for name, data in PARTS]


def calls_of_a_save(folder: Path) -> int:
    disk = FaultyDisk(-1, "none")
    for step in (1, 2):
        save(folder, step, parts(step), disk)
        keep_newest(folder, 1, disk)
    return len(disk.calls)


# saving


def test_a_checkpoint_is_read_back_as_it_was(tmp_path: Path) -> None:
    folder = save(tmp_path, 12, parts(12))
    assert folder.name == "step-000012"
    assert find(tmp_path).newest == folder
    assert read(folder, ["model.safetensors"]) == dict(parts(12))


def test_at_most_so_many_are_kept_and_the_newest_always(tmp_path: Path) -> None:
    for step in (3, 5, 8, 13):
        save(tmp_path, step, parts(step))
        keep_newest(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000008", "step-000013"]


def test_steps_are_ordered_as_numbers(tmp_path: Path) -> None:
    for step in (999_999, 1_000_000):
        save(tmp_path, step, parts(step))
    newest = find(tmp_path).newest
    assert newest is not None
    assert newest.name == "step-1000000"


def test_d10_a_used_folder_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    folder = save(tmp_path, 4, parts(4))
    with pytest.raises(ValueError, match="found a used folder, expected a fresh one"):
        save(tmp_path, 4, parts(5))
    assert read(folder, []) == dict(parts(4))


@pytest.mark.parametrize("action", ACTIONS_OF_A_SAVE)
def test_d7_a_save_that_fails_at_any_call_leaves_the_newest_complete_one(tmp_path: Path, action: str) -> None:
    """Two checkpoints, the second of which removes the first; the disk fails once, at each call in turn."""
    num_calls = calls_of_a_save(tmp_path / "counted")
    for at in range(num_calls):
        root = tmp_path / f"{at}"
        disk = FaultyDisk(at, action)
        finished = []
        try:
            for step in (1, 2):
                save(root, step, parts(step), disk)
                finished.append(step)
                keep_newest(root, 1, disk)
        except (Killed, OSError):
            pass
        found = find(root)
        if finished:
            assert found.newest is not None, at
        if found.newest is not None:
            step = int(found.newest.name.removeprefix("step-"))
            assert step >= max(finished, default=0), at
            assert read(found.newest, []) == dict(parts(step)), at
        names = clear_incomplete(root)
        assert names == found.incomplete
        assert find(root) == checkpoint.Found(found.newest, ())
        save(root, 3, parts(3))
        keep_newest(root, 1)
        assert [path.name for path in root.iterdir()] == ["step-000003"]


@pytest.mark.parametrize("action", ["ENOSPC", "EDQUOT"])
def test_d7_a_save_that_the_disk_refuses_at_any_call_leaves_nothing_of_it(tmp_path: Path, action: str) -> None:
    num_calls = calls_of_a_save(tmp_path / "counted")
    num_refused = 0
    for at in range(num_calls):
        root, disk = tmp_path / f"{at}", FaultyDisk(at, action)
        try:
            save(root, 1, parts(1), disk)
        except OSError:
            num_refused += 1
            assert find(root) == checkpoint.Found(None, ()), at
            assert save(root, 1, parts(1)) == find(root).newest
    assert 15 < num_refused < num_calls


def test_d7_what_a_save_left_that_could_not_be_removed_does_not_stop_the_next_try(tmp_path: Path) -> None:
    (tmp_path / "step-000001").mkdir()
    (tmp_path / "step-000001" / "state.json").write_text("{")
    folder = save(tmp_path, 1, parts(1))
    assert read(folder, []) == dict(parts(1))


@pytest.mark.timeout(300)
def test_d7_a_disk_that_refuses_each_call_in_turn_costs_only_checkpoints(
    stopped: tuple[Path, Path], tmp_path: Path
) -> None:
    recipe = small_recipe(stopped[0], schedule__steps=60, checkpoint__every_min=1e-9, checkpoint__keep=1)
    disk = RefusingDisk()
    assert train_alone(recipe, tmp_path / "run", disk=disk).exit_code == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    kinds = Counter(row["kind"] for row in rows)
    assert set(disk.refused) == {
        "mkdir",
        "create",
        "write",
        "fsync",
        "close",
        "replace",
        "fsync_dir",
        "unlink",
        "rmdir",
    }
    assert kinds["not_saved"] + kinds["not_removed"] == len(disk.refused)
    assert kinds["saved"] + kinds["not_saved"] == recipe.schedule.steps
    assert kinds["not_removed"] > 5
    (folder,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert read(folder, part_names(has_ema=True))
    calm = recipe.model_copy(update={"checkpoint": recipe.checkpoint.model_copy(update={"every_min": 60.0})})
    assert train_alone(calm, tmp_path / "calm").exit_code == 0
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (tmp_path / "calm/model.safetensors").read_bytes()


def test_d7_a_training_whose_last_checkpoint_has_no_room_fails_and_goes_on_when_there_is(
    stopped: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = small_recipe(stopped[0], checkpoint__every_min=1e-9)
    with pytest.raises(OSError, match="No space left on device"):
        train_alone(recipe, tmp_path / "run", disk=FullDisk())
    assert "step 6: no checkpoint was written ([Errno 28] No space left on device); training goes on" in (
        capsys.readouterr().err
    )
    assert train_alone(recipe, tmp_path / "run").exit_code == 0


def test_d8_a_folder_without_its_marker_is_passed_over_and_named(tmp_path: Path) -> None:
    save(tmp_path, 1, parts(1))
    half = save(tmp_path, 2, parts(2))
    (half / MARKER).unlink()
    (tmp_path / "step-000003").mkdir()
    found = find(tmp_path)
    assert found.newest == tmp_path / "step-000001"
    assert found.incomplete == ("step-000003", "step-000002")


def test_other_things_in_the_folder_are_no_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "step-1").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "step-000009").symlink_to(tmp_path)
    assert find(tmp_path) == checkpoint.Found(None, ())
    assert find(tmp_path / "nowhere") == checkpoint.Found(None, ())


# reading


def flips(data: bytes, rng: random.Random, count: int) -> Iterator[bytes]:
    for _ in range(count):
        at, bit = int(rng.random() * len(data)), int(rng.random() * 8)
        yield data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :]


@pytest.mark.parametrize("name", [MARKER, *(name for name, _ in PARTS)])
def test_d9_a_changed_bit_in_any_file_is_refused(tmp_path: Path, name: str) -> None:
    seed = 20_261
    print(f"seed {seed}")
    folder = save(tmp_path, 6, parts(6))
    whole = (folder / name).read_bytes()
    for changed in flips(whole, random.Random(seed), 200):
        (folder / name).write_bytes(changed)
        with pytest.raises(ValueError, match=str(folder)):
            read(folder, [part for part, _ in PARTS])
    (folder / name).write_bytes(whole)
    assert read(folder, []) == dict(parts(6))


@pytest.mark.parametrize("name", [name for name, _ in PARTS])
def test_d13_a_missing_part_is_named(tmp_path: Path, name: str) -> None:
    folder = save(tmp_path / "one", 6, parts(6))
    (folder / name).unlink()
    with pytest.raises(ValueError, match=rf"{name}: found no such part"):
        read(folder, [])
    other = save(tmp_path / "two", 6, [part for part in parts(6) if part[0] != name])
    with pytest.raises(ValueError, match=rf"found no {name} in its list of parts"):
        read(other, [part for part, _ in PARTS])


def test_a_list_of_parts_cannot_lead_out_of_its_folder(tmp_path: Path) -> None:
    folder = save(tmp_path, 6, parts(6))
    marker = json.loads((folder / MARKER).read_text())
    marker["files"]["../../secret.json"] = {"bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    (folder / MARKER).write_text(json.dumps(marker))
    with pytest.raises(ValueError, match="found no list of parts"):
        read(folder, [])


# what a training does with them


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A training that was stopped after its fourth step: (data, run)."""
    folder = tmp_path_factory.mktemp("stopped")
    write_sets(folder)
    recipe = small_recipe(folder)
    assert train_alone(recipe, folder / "run", looks=4).exit_code == 75
    return folder, folder / "run"


@pytest.mark.parametrize("name", [name for name, field in RunState.model_fields.items() if field.is_required()])
def test_d13_a_missing_field_of_the_state_is_named(stopped: tuple[Path, Path], name: str) -> None:
    (folder,) = (stopped[1] / "checkpoints").iterdir()
    state = json.loads((folder / "state.json").read_text())
    assert read_state({"state.json": json.dumps(state).encode()}).step == 4
    del state[name]
    with pytest.raises(ValueError, match=f"bad field `{name}`"):
        read_state({"state.json": json.dumps(state).encode()})


def test_a_state_of_another_version_is_named_before_its_fields(stopped: tuple[Path, Path]) -> None:
    (folder,) = (stopped[1] / "checkpoints").iterdir()
    state = json.loads((folder / "state.json").read_text())
    for other in ({"version": 1, "step": 4, "epochs": 2}, {**state, "version": VERSION + 1}):
        with pytest.raises(
            ValueError, match=f"found state.json of version {other['version']}, expected {VERSION}; start"
        ):
            read_state({"state.json": json.dumps(other).encode()})


def resave(run: Path, target: Path, change: dict[str, bytes | None]) -> None:
    """The newest checkpoint of `run` as that of `target`, with other parts and right hashes."""
    newest = find(run / "checkpoints").newest
    assert newest is not None
    given = read(newest, []) | change
    save(target / "checkpoints", 4, [(name, data) for name, data in given.items() if data is not None])


@pytest.mark.parametrize("part", [*part_names(has_ema=True), "chosen.safetensors"])
def test_d13_a_training_refuses_to_go_on_without_a_part(stopped: tuple[Path, Path], tmp_path: Path, part: str) -> None:
    data, run = stopped
    resave(run, tmp_path / "run", {part: None})
    with pytest.raises(ValueError, match=f"found no {part}"):
        train_alone(small_recipe(data), tmp_path / "run")


@pytest.mark.parametrize("part", ["model", "ema", "optimizer"])
def test_d13_a_training_refuses_to_go_on_without_a_tensor(
    stopped: tuple[Path, Path], tmp_path: Path, part: str
) -> None:
    from safetensors.torch import load
    from safetensors.torch import save as pack

    data, run = stopped
    newest = find(run / "checkpoints").newest
    assert newest is not None
    tensors = load((newest / f"{part}.safetensors").read_bytes())
    name = sorted(tensors)[len(tensors) // 2]
    del tensors[name]
    resave(run, tmp_path / "run", {f"{part}.safetensors": pack(tensors)})
    with pytest.raises(ValueError, match=rf"{name}"):
        train_alone(small_recipe(data), tmp_path / "run")


def test_d8_a_training_falls_back_to_the_newest_complete_one_and_says_so(
    stopped: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, run = stopped
    resave(run, tmp_path / "run", {})
    (tmp_path / "run" / "checkpoints" / "step-000005").mkdir()
    (tmp_path / "run" / "checkpoints" / "step-000005" / "state.json").write_text("{")
    assert train_alone(small_recipe(data), tmp_path / "run").exit_code == 0
    said = capsys.readouterr().err
    assert "cleared 1 checkpoints that were never finished: step-000005" in said
    assert "step-000004, step 4 of 6" in said


def test_what_could_not_be_cleared_is_not_called_cleared(
    stopped: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class NoRemoving(OsDisk):
        def rmdir(self, path: Path) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    data, run = stopped
    resave(run, tmp_path / "run", {})
    (tmp_path / "run" / "checkpoints" / "step-000005").mkdir()
    assert train_alone(small_recipe(data), tmp_path / "run", disk=NoRemoving()).exit_code == 0
    assert "what was never finished is still there ([Errno 30] Read-only file system)" in capsys.readouterr().err
    assert '"cleared"' not in (tmp_path / "run" / "log.jsonl").read_text()


def test_d9_a_training_refuses_changed_bytes(stopped: tuple[Path, Path], tmp_path: Path) -> None:
    data, run = stopped
    resave(run, tmp_path / "run", {})
    file = tmp_path / "run" / "checkpoints" / "step-000004" / "ema.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ValueError, match="found other bytes than were written"):
        train_alone(small_recipe(data), tmp_path / "run")

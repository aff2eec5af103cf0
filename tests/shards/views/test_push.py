"""A push to the Hugging Face hub: what goes there, what never does, and how it ends when something fails."""

import hashlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import sixfold
from shards.disk.amounts import time_text
from shards.disk.store import FolderStore, open_for_reading
from shards.set.manifest import read_table, write_subset
from shards.set.verify import verify
from shards.views.hub import HubFile, Pushed, in_commits, push, text_file, token_of
from shards.views.push import data_set_files, is_of_a_set
from tests.support.hub_server import TOKEN, HubServer
from tests.support.small_data_set import write_data_set

NAME = "someone/numbers"
ENDS = {".tar": 100 << 20, ".parquet": 1 << 20, "_stats.json": 1000}  # of a shard, with its bytes


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    with HubServer() as server:
        yield server


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return write_data_set(tmp_path / "set")


def sent(hub: HubServer, files: list[HubFile], **more: object) -> Pushed:
    return push(NAME, "dataset", files, TOKEN, endpoint=hub.url, pause_s=0.0, **more)  # type: ignore[arg-type]


def test_a_copy_from_the_hub_is_a_data_set_without_damage_and_has_a_card_with_class_labels(
    hub: HubServer, store: FolderStore, tmp_path: Path
) -> None:
    files = data_set_files(store, "numbers")
    done = sent(hub, files)
    assert (done.num_files, done.num_sent, done.address) == (7, 7, f"{hub.url}/datasets/{NAME}")
    repo = hub.repos[f"datasets/{NAME}"]
    assert repo.private
    for name, data in repo.files.items():
        path = tmp_path / "copy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    report = verify(open_for_reading(str(tmp_path / "copy")))
    assert not report.damages
    assert report.samples == 20
    card = yaml.safe_load(repo.files["README.md"].decode().split("---")[1])
    label = card["dataset_info"]["features"][0]
    assert label["dtype"]["class_label"]["names"]["2"] == "two"


def test_only_what_belongs_to_the_set_is_listed(store: FolderStore, tmp_path: Path) -> None:
    for name in ("_meta/logs/a.jsonl", "_meta/quarantine/00000.tar", "_meta/lease.json", "notes.txt", "00009.tar"):
        (store.root / name).parent.mkdir(parents=True, exist_ok=True)
        (store.root / name).write_text("secret")
    (store.root / "link.parquet").symlink_to("/etc/passwd")
    names = {one.name for one in data_set_files(store, "numbers")}
    shards = {f"{shard:05d}{end}" for shard in (0, 1) for end in (".tar", ".parquet", "_stats.json")}
    assert names == {*shards, "README.md"}


@pytest.mark.parametrize("name", ["00000.tar", "00001.parquet"])
def test_a_link_in_the_place_of_a_file_of_the_set_is_refused(store: FolderStore, tmp_path: Path, name: str) -> None:
    (store.root / name).rename(tmp_path / "elsewhere")
    (store.root / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=f"{name}: found a link, expected a file of its own"):
        data_set_files(store, "numbers")


def test_samples_that_may_not_be_passed_on_are_pushed_only_on_request(tmp_path: Path) -> None:
    store = write_data_set(tmp_path / "set", change=lambda shard, index, row: {**row, "licence": None})
    with pytest.raises(ValueError, match=r"found 20 of 20 samples without a licence .* `--unlicensed keep`"):
        data_set_files(store, "numbers")
    assert len(data_set_files(store, "numbers", "keep")) == 7


def test_what_a_person_put_among_the_subsets_is_not_pushed(store: FolderStore) -> None:
    write_subset(store, "some", read_table(store, [0], ["uid", "key", "shard"]), {})
    for name in ("some.txt", "some (copy).json", "Some.json"):
        (store.root / "_meta/subsets" / name).write_text("{}")
    subsets = [file.name for file in data_set_files(store, "numbers") if "subsets" in file.name]
    assert subsets == ["_meta/subsets/some.json", "_meta/subsets/some.parquet"]


def test_a_second_push_sends_nothing_and_one_after_a_change_only_what_changed(
    hub: HubServer, store: FolderStore
) -> None:
    files = data_set_files(store, "numbers")
    sent(hub, files)
    assert sent(hub, files).num_sent == 0
    assert sent(hub, [*files[:-1], text_file("README.md", "another card")]).num_sent == 1
    assert len(hub.repos[f"datasets/{NAME}"].commits) == 2


def test_what_another_push_left_is_refused_or_removed_and_what_others_put_there_stays(
    hub: HubServer, store: FolderStore, tmp_path: Path
) -> None:
    """A set that was made again with fewer shards: a reader of `*.tar` would get those of both."""
    sent(
        hub, [*data_set_files(store, "numbers"), text_file("_meta/subsets/2x.json", "{}"), text_file("notes.txt", "x")]
    )
    repo = hub.repos[f"datasets/{NAME}"]
    for end in (".tar", ".parquet", "_stats.json"):
        (store.root / f"00001{end}").unlink()
    files, before = data_set_files(store, "numbers"), dict(repo.files)
    with pytest.raises(
        ValueError,
        match=r"found 4 files of another push, the first '00001.parquet', expected none; push with --remove",
    ):
        sent(hub, files, is_ours=is_of_a_set)
    assert repo.files == before
    assert sent(hub, files, is_ours=is_of_a_set, remove_old=True).num_removed == 4
    assert set(repo.files) == {"00000.tar", "00000.parquet", "00000_stats.json", "README.md", "notes.txt"}
    assert sent(hub, files, is_ours=is_of_a_set).num_sent == 0


def test_a_push_that_ended_in_the_middle_goes_on_where_it_was(
    hub: HubServer, store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shards.views.hub.FILES_AT_ONCE", 3)
    files = data_set_files(store, "numbers")
    commit = "commit/main"
    hub.fails = [("nothing", 0)]
    with pytest.raises(ValueError, match="HTTP 403"):
        sent(hub, files, say=lambda line: hub.fails.append((commit, 403)) if line.startswith("3 of 7") else None)
    assert len(hub.repos[f"datasets/{NAME}"].files) == 3
    hub.fails.clear()
    lines: list[str] = []
    assert sent(hub, files, say=lines.append).num_sent == 4
    assert lines[0] == "3 files of 7 there already"


@pytest.mark.parametrize("word", ["repos/create", "preupload", "objects/batch", "/blob/", "commit/main", "paths-info"])
def test_a_passing_failure_is_tried_again(
    hub: HubServer, store: FolderStore, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client's own pauses
    hub.fails = [(word, 503)]
    assert sent(hub, data_set_files(store, "numbers")).num_sent == 7
    assert not hub.fails


@pytest.mark.parametrize(
    ("says", "pauses"),
    [
        ({}, [2.0, 8.0, 32.0, 128.0, 512.0, 600.0, 600.0]),
        ({"Retry-After": "2580"}, [2580.0] * 7),
        ({"RateLimit": '"api";r=0;t=55'}, [55.0] * 7),
        ({"RateLimit": '"api";r=900;t=55'}, [2.0, 8.0, 32.0, 128.0, 512.0, 600.0, 600.0]),  # not the count that is full
    ],
)
def test_a_hub_that_takes_no_more_commits_for_now_is_waited_for(
    hub: HubServer, store: FolderStore, monkeypatch: pytest.MonkeyPatch, says: dict[str, str], pauses: list[float]
) -> None:
    """It takes 128 commits an hour: a large push meets that several times."""
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    hub.fails, hub.says = [("commit/main", 429)] * 7, says
    lines: list[str] = []
    files = data_set_files(store, "numbers")
    assert push(NAME, "dataset", files, TOKEN, endpoint=hub.url, say=lines.append).num_sent == 7
    assert slept == pauses
    told = [line for line in lines if "HTTP 429" in line]
    assert len(told) == 7
    assert told[0].endswith(f"; trying again in {time_text(pauses[0])}")


def test_a_wait_that_would_end_behind_the_deadline_is_not_begun(hub: HubServer, store: FolderStore) -> None:
    hub.fails, hub.says = [("commit/main", 429)], {"Retry-After": "2580"}
    began = time.monotonic()
    with pytest.raises(
        TimeoutError, match=r"asked in 43\.0 min again, which is behind the deadline; run the same command"
    ):
        sent(hub, data_set_files(store, "numbers"), deadline_s=60.0)
    assert time.monotonic() - began < 30


def test_three_thousand_shards_are_pushed_in_fewer_commits_than_the_hub_takes_in_an_hour() -> None:
    shards = [HubFile(f"{number:05d}{end}", b"", size, "") for number in range(3000) for end, size in ENDS.items()]
    commits = list(in_commits(shards))
    assert [one for commit in commits for one in commit] == shards
    assert len(commits) < 128
    assert max(map(len, commits)) <= 100  # as the hub recommends: it checks each file within a request of 60 s


def test_a_token_that_may_not_write_is_named_in_one_line_and_not_shown(hub: HubServer, store: FolderStore) -> None:
    bad = "hf_" + "b" * 34
    with pytest.raises(
        ValueError, match=r"someone/numbers: the hub did not take it \(HTTP 401: .*\); check HF_TOKEN"
    ) as e:
        push(NAME, "dataset", data_set_files(store, "numbers"), bad, endpoint=hub.url, pause_s=0.0)
    assert bad not in str(e.value)
    assert "\n" not in str(e.value)
    assert len(hub.requests) < 4  # it is not asked again and again


def test_a_hub_that_does_not_answer_is_left_at_the_deadline(hub: HubServer, store: FolderStore) -> None:
    hub.silent = "preupload"
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="not all is there at the deadline; run the same command to go on"):
        sent(hub, data_set_files(store, "numbers"), deadline_s=1.0)
    assert time.monotonic() - began < 10


def test_bytes_that_changed_on_the_way_are_told_at_the_end(hub: HubServer, store: FolderStore) -> None:
    files = data_set_files(store, "numbers")
    tar = store.root / "00000.tar"
    tar.write_bytes(tar.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match=r"found 1 file with other bytes than here .* '00000.tar'"):
        sent(hub, files)


def test_a_public_repository_is_not_filled_unless_asked(hub: HubServer, store: FolderStore) -> None:
    files = data_set_files(store, "numbers")
    sent(hub, files, public=True)
    assert not hub.repos[f"datasets/{NAME}"].private
    with pytest.raises(ValueError, match="found a public repository, expected a private one"):
        sent(hub, files)


@pytest.mark.parametrize("name", ["numbers", "a/b/c", "some one/x", "../x", ""])
def test_a_name_that_the_hub_does_not_have_is_refused(hub: HubServer, name: str) -> None:
    with pytest.raises(ValueError, match=r"owner/name|[Rr]epo"):
        push(name, "dataset", [], TOKEN, endpoint=hub.url)
    assert not hub.requests


def test_the_token_comes_from_the_environment_alone() -> None:
    assert token_of({"HF_TOKEN": TOKEN}) == TOKEN
    with pytest.raises(ValueError, match=r"^HF_TOKEN: found none in the environment"):
        token_of({})


def test_hashes_of_shards_are_those_of_their_records(store: FolderStore) -> None:
    for one in data_set_files(store, "numbers"):
        if isinstance(one.source, Path):
            assert hashlib.sha256(one.source.read_bytes()).hexdigest() == one.sha256, one.name
            assert re.fullmatch(r"[0-9a-z_.]+", one.name)


def test_the_verb_sends_nothing_unless_told_to_go(
    hub: HubServer, store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    app = sixfold.command_line()
    tried = CliRunner().invoke(app, ["push", str(store.root), NAME])
    assert tried.exit_code == 0, tried.output
    assert re.search(r"7 files, .* would go to the private dataset someone/numbers; send them with --go", tried.output)
    assert "00001.parquet" in tried.output
    assert not hub.requests
    done = CliRunner().invoke(app, ["push", str(store.root), NAME, "--go"])
    assert done.exit_code == 0, done.output
    assert f"7 files at {hub.url}/datasets/{NAME}, 7 sent now" in done.output
    assert TOKEN not in done.output


def test_a_place_that_is_neither_a_data_set_nor_a_model_is_named(tmp_path: Path) -> None:
    done = CliRunner().invoke(sixfold.command_line(), ["push", str(tmp_path), NAME])
    assert isinstance(done.exception, ValueError)
    assert "found no shards, expected a data set" in str(done.exception)

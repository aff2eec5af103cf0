"""What lies under the name of a file of a data set and is none: each verb says so, soon, and in one line.

A pipe that nobody writes to, a device without an end, a sparse file of 20 GB, a link that leads nowhere, a folder.
"""

import contextlib
import os
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.process.lease import LEASE, Lease, LeaseHeld
from shards.disk.layout import RUN
from shards.disk.store import FolderStore, open_for_reading, open_store
from shards.set.ledger import LEDGER
from shards.set.manifest import SUBSETS, read_subset, read_table, scan_records, write_subset
from shards.set.origin import origin_bytes
from shards.set.repair import repair, repair_meta
from shards.set.status import SUMMARY, status_of
from shards.set.verify import verify
from shards.stream.index import load_index
from shards.views.census import take_census
from shards.views.gallery import write_gallery
from tests.support.shard_rows import FINGERPRINT, write_shard

FILES = (
    *("00001.tar", "00001.parquet", "00001_stats.json", RUN, SUMMARY, LEDGER, LEASE),
    *(f"{SUBSETS}/1x.json", f"{SUBSETS}/1x.parquet", "_meta/recipe.yaml"),
)
DECIDING = FILES[:5]  # without one of these there is no whole data set


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 20 * 10**9)


def dangling(path: Path) -> None:
    path.symlink_to("gone")


def folder(path: Path) -> None:
    path.mkdir()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole") / "set"
    store = open_store(str(root))
    assert isinstance(store, FolderStore)
    for shard in range(3):
        write_shard(store, shard)
    store.replace("_meta/recipe.yaml", b"name: a\n")
    store.replace(RUN, origin_bytes(FINGERPRINT, {"recipe.yaml": b"name: a\n"}, {}))
    store.replace(SUMMARY, b'{"asked": {"units": 3}, "scale": "1x", "exit_code": 0}\n')
    table = read_table(store, [0, 1])
    write_subset(store, "1x", table.filter([status == "success" for status in table["status"].to_pylist()]), {})
    with Lease.take(store, "life", print):
        scan_records(store)
    assert not verify(store).damages
    return root


VERBS: dict[str, Callable[[str], object]] = {
    "status": lambda url: status_of(open_for_reading(url), None),
    "records": lambda url: scan_records(open_store(url)),
    "subset": lambda url: read_subset(open_for_reading(url), "1x"),
    "index": lambda url: load_index(url),
    "index of a subset": lambda url: load_index(url, "1x"),
    "lease": lambda url: Lease.take(open_store(url), "another", print, sleep=lambda s: None).__enter__(),
    "census": lambda url: take_census(store := open_for_reading(url), scan_records(store)),
    "gallery": lambda url: write_gallery(open_for_reading(url), Path(url).parent / "gallery"),
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("put", [pipe, device, sparse, dangling, folder])
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_none_is_named_by_every_verb_and_neither_waited_for_nor_taken_in(
    whole: Path, tmp_path: Path, name: str, put: Callable[[Path], None]
) -> None:
    root = Path(shutil.copytree(whole, tmp_path / "set"))
    (root / name).unlink()
    put(root / name)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    for verb in VERBS.values():
        said = ""
        with contextlib.suppress(LeaseHeld):
            try:
                verb(str(root))
            except (ValueError, OSError) as error:
                said = str(error)
        assert "\n" not in said
    report = verify(open_for_reading(str(root)))
    if name in DECIDING or name.startswith(SUBSETS):
        shown = name.replace("1x.parquet", "1x.json")
        assert any(shown in str(one.member) or (one.shard == 1 and "00001" in name) for one in report.damages)
    try:
        store = open_store(str(root))
    except ValueError as error:
        said = str(error)
        assert os.path.islink(root / name), said
        assert f"{root / name}: found a link" in said
    else:
        repair(store, report)
        repair_meta(store, report)
        if name not in (LEDGER, LEASE):  # these are replaced by whoever writes next
            assert not os.path.lexists(root / name), "what was none is out of the way"
    assert time.monotonic() - began < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000, "KiB"

"""Settings of all tests, loaded by pytest before any of them; processes that tests start do not load it."""

import atexit
import gc
import math
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

from cluster import waiting

settings.register_profile("tests", deadline=None, print_blob=True)  # shared machines stutter
settings.load_profile("tests")

# What a program keeps for this user on this machine (indexes, batch curves) stays out of the user's own folder.
CACHE = tempfile.mkdtemp(prefix="sixfold-tests-")
atexit.register(shutil.rmtree, CACHE, ignore_errors=True)
os.environ["XDG_CACHE_HOME"] = CACHE

# What is told of waits depends on how fast the machine is; tests of that set times of their own.
waiting.LIVE_S, waiting.LINES_S = math.inf, (math.inf,)

# Files that take longest, the longest first (seconds on two cores): begun last, they would be waited for alone.
LONGEST = (
    *("slurm/test_generate.py", "cluster/submit/test_ray_job.py", "gen/run/test_s3.py"),
    *(
        "train/session/test_over_ray.py",
        "train/model/test_engine.py",
        "gen/run/test_run.py",
        "gen/sampler/test_fast_path.py",
    ),
    *("cluster/fan_out/test_ray.py", "gen/run/test_hostile_names.py", "train/sweep/test_sweep.py"),
    *("cluster/ranks/test_over_ray.py", "docs/test_bench_gpu.py", "train/session/test_second_task.py"),
    *("train/session/test_session.py", "gen/prompts/test_write.py", "shards/views/test_readers.py"),
    *("cluster/ranks/test_group.py", "gen/sampler/test_families.py", "shards/set/test_commit.py"),
)

# Tests that `make test` leaves to `make test-slow`, one `file::name` a line; written by `make test-times`.
SLOW = Path(__file__).with_name("slow.txt")
SLOW_S = 4.0  # so long take all tests of one name together, with what is set up for them
TIMES = "--write-slow"
seconds: dict[str, float] = {}  # name -> of its tests so far; filled where the reports of all workers arrive


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option of `make test-times`."""
    parser.addoption(TIMES, action="store_true", help=f"write the names of tests that take {SLOW_S:g} s to {SLOW.name}")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count the time of a test's setup, call or teardown."""
    name = report.nodeid.partition("[")[0]
    seconds[name] = seconds.get(name, 0.0) + report.duration


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write which tests were slow, if asked; those that did not run this time keep their line."""
    if session.config.getoption(TIMES) and not hasattr(session.config, "workerinput"):
        kept = [name for name in SLOW.read_text().split() if name not in seconds]
        slow = [name for name, spent_s in seconds.items() if spent_s >= SLOW_S]
        SLOW.write_text("".join(f"{name}\n" for name in sorted([*kept, *slow])))


@pytest.hookimpl(tryfirst=True)  # before pytest chooses by marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark slow tests, and put the longest files first. And what the libraries have loaded is no garbage: collections
    need not look at it."""
    here = Path(__file__).parent
    slow = set(SLOW.read_text().split())
    for item in items:
        if item.nodeid.partition("[")[0] in slow:
            item.add_marker(pytest.mark.slow)
    order = {here / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path, len(LONGEST)))
    gc.collect()
    gc.freeze()

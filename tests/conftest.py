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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first. And what the libraries have loaded is no garbage: collections need not look at it."""
    here = Path(__file__).parent
    order = {here / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path, len(LONGEST)))
    gc.collect()
    gc.freeze()

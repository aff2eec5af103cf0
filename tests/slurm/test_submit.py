"""Jobs of a real SLURM are found by their receipt, and by their script where the answer was lost."""

import dataclasses
from pathlib import Path

import pytest

from cluster.recipes.site import SiteSpec
from cluster.submit.book import UNSURE, Book
from cluster.submit.call import Call
from cluster.submit.submit import cancel_jobs, jobs_of, submit_slurm, told_jobs
from shards.disk.home import home
from tests.support.slurm_site import Site


def test_tasks_of_an_array_whose_answer_was_lost_are_found_told_and_cancelled(
    site: Site, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", site.environ["SLURM_CONF"])
    monkeypatch.chdir(work)
    folder = work / "an output"
    call = Call("generate", home() / "recipes/sandbox.yaml", "sandbox", str(folder), ("--scale", "1x"))
    receipt = submit_slurm(call, SiteSpec(how="array", tasks=8, time="00:10:00", chain="never"), print)
    book = Book.of(call.out)
    [job] = jobs_of(book)
    assert sorted(state.id for state in job.states) == [f"{receipt.ids[0]}_{task}" for task in range(8)]
    book.keep(dataclasses.replace(receipt, ids=(), more={**receipt.more, UNSURE: "yes"}))
    [job] = jobs_of(book)
    assert job.lives
    assert len(job.states) == 8, "each task once"
    with pytest.raises(ValueError, match="wait for it, or end it with"):
        submit_slurm(call, SiteSpec(), print)
    assert cancel_jobs(call.out, print) == 1
    site.wait(site.is_idle, 60, "the end of all tasks")
    [line] = told_jobs(call.out)
    assert line.endswith("8 cancelled")

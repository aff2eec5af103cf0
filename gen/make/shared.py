"""Making an output beside other runs: whoever is free claims the next unit.

In: units, a call that works some of them off, this run's claims. Out: the summary of this run. On disk: what
`cluster.fan_out.claims` says.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from cluster.fan_out.claims import Claims
from cluster.fan_out.work import Quarantined, Summary
from cluster.process.stop_flag import StopFlag
from shards.disk.amounts import counted


def make_beside_others(
    todo: Sequence[int], work: Callable[[Iterable[int]], Summary], claims: Claims, stop: StopFlag
) -> Summary:
    """Claim and make units until all of `todo` are done, whoever made them; what a run that ended has left is taken
    over. `work` makes the units that it is given and pulls them one by one. `claims`: entered, so that others see that
    this run lives. What was claimed and not made, because the work was stopped, is given back."""
    summary: Summary | None = None
    began = time.monotonic()
    missing = list(todo)
    while True:
        units = claims.take(missing)
        first = next(units, None)  # a worker that has nothing to do would load its model for it
        if first is not None:
            this = work(itertools.chain([first], units))
            summary = this if summary is None else summary.then(this)
            for one in this.quarantined:
                claims.failed(one.unit)
            if this.error is not None or this.drained:
                claims.give_back()
                return summary
        failed = {one.unit for one in summary.quarantined} if summary is not None else set()
        missing = claims.wait([unit for unit in missing if unit not in failed], stop)
        if not missing or stop.requested:
            return _ended(summary, claims.left, bool(missing), time.monotonic() - began)


def _ended(summary: Summary | None, left: Mapping[int, int], stopped: bool, seconds: float) -> Summary:
    """With the units that no run takes any more."""
    nothing = Summary(0, (), 0, 0, 0, 0, 0, 0, seconds)
    given_up = tuple(
        Quarantined(unit, number, f"{counted(number, 'run')} failed at it, or were killed while they made it")
        for unit, number in left.items()
    )
    whole = nothing if summary is None else summary
    return replace(whole, quarantined=(*whole.quarantined, *given_up), drained=stopped, seconds=seconds)

"""Making an output beside other runs: whoever is free claims the next unit.

In: units, a call that works some of them off, a store. Out: the summary of this run. On disk: what
`cluster.fan_out.claims` says.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from cluster.fan_out.claims import Claims
from cluster.fan_out.work import Quarantined, Summary
from cluster.process.stop_flag import StopFlag
from gen.make.scale import Store
from shards.disk.amounts import counted
from shards.disk.layout import record_name


def make_beside_others(
    todo: Sequence[int],
    work: Callable[[Iterable[int]], Summary],
    store: Store,
    life: str,
    attempts: int,
    stop: StopFlag,
) -> Summary:
    """Claim and make units until all of `todo` are done, whoever made them; what a run that ended has left is taken
    over. `work` makes the units that it is given and pulls them one by one. `attempts`: claims of one unit."""
    claims = Claims(store, life, attempts, lambda unit: store.exists(record_name(unit)))
    summary: Summary | None = None
    began = time.monotonic()
    with claims.joined(stop.request):
        missing = list(todo)
        while True:
            units = claims.take(missing)
            first = next(units, None)  # a worker that has nothing to do would load its model for it
            if first is not None:
                this = work(itertools.chain([first], units))
                summary = this if summary is None else summary.then(this)
                if this.error is not None or this.drained:
                    return summary
            failed = {one.unit for one in summary.quarantined} if summary is not None else set()
            missing = claims.wait([unit for unit in missing if unit not in failed], stop)
            if not missing or stop.requested:
                return _ended(summary, claims.left, bool(missing), time.monotonic() - began)


def _ended(summary: Summary | None, left: Mapping[int, int], stopped: bool, seconds: float) -> Summary:
    """With the units that no run takes any more."""
    nothing = Summary(0, (), 0, 0, 0, 0, 0, 0, seconds)
    given_up = tuple(
        Quarantined(unit, number, f"{counted(number, 'run')} ended while they made it") for unit, number in left.items()
    )
    whole = nothing if summary is None else summary
    return replace(whole, quarantined=(*whole.quarantined, *given_up), drained=stopped, seconds=seconds)

"""Trouble with reading data: samples that could not be read, and what the fetchers had to do.

In: the batches of this rank's stream, the ranks. Out: counts over all ranks, and lines in the log. On disk: nothing;
`train.session.logs` writes the file that names each sample.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence

from cluster.ranks.group import Ranks
from shards.disk.amounts import counted
from shards.stream.stream import Replaced, Stream
from train.session.logs import ReplacedLog, RunLog

# What a fetcher may count (`shards.stream.fetch.Fetcher.counters`) that makes a training slow and does not end it.
FETCH_ADVICE = {
    "cache_full": "data.cache.folder has no room for some shards, whose pictures are read one by one, slowly; raise "
    "data.cache.max_bytes, or free space on its disk",
    "download_failed": "some shards could not be fetched whole, their pictures are read one by one, slowly; check the "
    "store, and the disk of data.cache.folder",
    "other_bytes": "some shards came with other bytes than their records say; run `sixfold verify` on the data set, "
    "and let nobody write to it",
}


class Reading:
    """The counts of this rank. All ranks call `share` and `share_fetched` together."""

    def __init__(self, ranks: Ranks, log: RunLog | None, names: ReplacedLog) -> None:
        """`log`: of rank 0."""
        self.replaced: Counter[str] = Counter()  # of this rank, by reason, over all lives
        self.replaced_by_all = 0  # when the ranks last told each other
        self._ranks, self._log, self._names = ranks, log, names
        self._advised: set[str] = set()  # keys of FETCH_ADVICE

    def resume(self, by_rank: Sequence[Mapping[str, int]]) -> None:
        """Start from the counts of an earlier run; with another number of ranks each takes an equal part of them."""
        rank, world = self._ranks.rank, self._ranks.world
        total = _sum(by_rank)
        shares = {reason: (count + world - 1 - rank) // world for reason, count in total.items()}
        self.replaced = Counter(by_rank[rank] if len(by_rank) == world else shares)
        self.replaced_by_all = total.total()

    def add(self, samples: Sequence[Replaced]) -> None:
        """Count and name the samples of one batch that could not be read."""
        self.replaced.update(bad.reason for bad in samples)
        self._names.add(samples)

    def share(self, step: int) -> tuple[dict[str, int], ...]:
        """The counts of each rank, by reason; logged when they have grown."""
        by_rank = tuple(json.loads(text) for text in self._ranks.texts(json.dumps(self.replaced)))
        before, self.replaced_by_all = self.replaced_by_all, _sum(by_rank).total()
        if self._log is not None and self.replaced_by_all > before:
            self._log.line("replaced", step, samples=self.replaced_by_all, reasons=_sum(by_rank))
            self._log.say(f"step {step}: {counted(self.replaced_by_all, 'sample')} so far could not be read")
        return by_rank

    def share_fetched(self, step: int, stream: Stream) -> None:
        """Log what the fetchers of all ranks have counted since this start; give advice once for each trouble."""
        by_rank = [json.loads(text) for text in self._ranks.texts(json.dumps(stream.fetched()))]
        domains = {name: _sum([own[name] for own in by_rank]) for name in by_rank[0]}
        if self._log is None or not any(domains.values()):
            return
        self._log.line("fetched", step, domains=domains)
        for name, counts in domains.items():
            for trouble, advice in FETCH_ADVICE.items():
                if counts[trouble] and trouble not in self._advised:
                    self._advised.add(trouble)
                    self._log.say(f"step {step}: data.domains.{name}: {advice}")


def _sum(by_rank: Sequence[Mapping[str, int]]) -> Counter[str]:
    return sum((Counter(own) for own in by_rank), Counter())

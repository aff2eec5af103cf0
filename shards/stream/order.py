"""The order of samples: an endless sequence for each domain, and the part of it that a rank takes at a step; pure.

In: the number of samples of each shard, a seed, quotas. Out: row numbers of an `Index` (see `index.py`). On disk:
nothing; `SampleOrder.state` is a small JSON object for a checkpoint.

Every pass over a domain visits each row once, or as often as its class is due (`class_shares.py`); it has as many
positions as there are rows. The shards that hold rows are shuffled and cut into windows of `window_shards`; the visits
of each window are shuffled (`shuffle.py`). To find a position takes one sort of the shards (for its pass), one of the
rows (of its window), two of all rows by class where these matter, and no walk through earlier positions.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from shards.stream.class_shares import ClassShares, Sampling
from shards.stream.index_arrays import Index
from shards.stream.keyed_random import hashed
from shards.stream.shuffle import shuffle

Int64: TypeAlias = npt.NDArray[np.int64]

STATE_VERSION = 1
_SHARDS, _ROWS, _SPARES, _DOMAIN, _CLASSES = range(5)  # the purpose of a hash, part of its key
_SEGMENT_BITS = 32


class Order:
    """The endless sequence of one domain; position p belongs to pass p // n over its n rows.

    The last pass and window are cached, because positions are mostly asked for in rising order.
    """

    def __init__(
        self, sizes: Sequence[int] | Int64, seed: int, window_shards: int, shares: ClassShares | None = None
    ) -> None:
        """`sizes`: samples of each shard, in the order of the index. `shares`: of their classes; None: each row once a
        pass. Raises ValueError if there is no sample."""
        self.sizes = np.asarray(sizes, dtype=np.int64)
        if window_shards < 1:
            raise ValueError(f"window_shards: found {window_shards}, expected at least 1")
        if self.sizes.ndim != 1 or (self.sizes < 0).any():
            raise ValueError("sizes: found a negative number of samples or no list, expected one number for each shard")
        self.num_rows = int(self.sizes.sum())
        if self.num_rows == 0:
            raise ValueError(f"found no sample in {len(self.sizes)} shards, expected at least one; generate some first")
        self.seed = seed
        self.window_shards = window_shards
        self._shares = shares
        self._first = np.concatenate([[0], np.cumsum(self.sizes)])
        self._filled = np.flatnonzero(self.sizes)
        self._pass: tuple[int, Int64, Int64] | None = None
        self._window: tuple[int, int, Int64, Int64] | None = None
        self._coming: tuple[int, int, Int64] | None = None

    def rows(self, first: int, count: int) -> Int64:
        """Row numbers at positions `first` .. `first` + `count`, int64 (count,)."""
        if first < 0 or count < 0:
            raise ValueError(f"positions: found first {first}, count {count}, expected neither to be negative")
        return self._visits(first, count)[0]

    def earlier(self, first: int, count: int) -> Int64:
        """For each of these positions, how often its row came before, int64 (count,): the number of its pass, if every
        pass visits each row once."""
        if self._shares is None:
            return np.arange(first, first + count) // self.num_rows
        return self._visits(first, count)[1]

    def _visits(self, first: int, count: int) -> tuple[Int64, Int64]:
        visits = np.empty((2, count), np.int64)
        done = 0
        while done < count:
            number, offset = divmod(first + done, self.num_rows)
            start, *window = self._window_at(number, offset)
            part = np.stack([each[offset - start :][: count - done] for each in window])
            visits[:, done : done + part.shape[1]] = part
            done += part.shape[1]
        return visits[0], visits[1]

    def spare(self, position: int, attempt: int) -> int:
        """The row for the slot at `position` if its own row and the first `attempt` spares are bad.

        A random other row of the domain; the same row only if it is the only one.
        """
        row = int(self.rows(position, 1)[0])
        if self.num_rows == 1:
            return row
        step = 1 + hashed(self.seed, _SPARES, position, attempt) % (self.num_rows - 1)
        return (row + step) % self.num_rows

    def coming(self, position: int) -> Int64:
        """The shards of the next window after that of `position`, which are read next."""
        number, offset = divmod(position, self.num_rows)
        shards, starts = self._shards_of(number)
        window = int(np.searchsorted(starts, offset, side="right")) - 1
        kept = self._coming
        if kept is not None and kept[:2] == (number, window):
            return kept[2]
        behind = shards[(window + 1) * self.window_shards :] if window + 1 < len(starts) else self._shuffled(number + 1)
        self._coming = (number, window, behind[: self.window_shards].copy())
        return self._coming[2]

    def _window_at(self, number: int, offset: int) -> tuple[int, Int64, Int64]:
        """Of the window that holds `offset` in pass `number`: where it starts in the pass, its rows in order, and how
        often each came before."""
        shards, starts = self._shards_of(number)
        window = int(np.searchsorted(starts, offset, side="right")) - 1
        start = int(starts[window])
        kept = self._window
        if kept is not None and kept[:2] == (number, window):
            return start, kept[2], kept[3]
        chosen = shards[window * self.window_shards : (window + 1) * self.window_shards]
        rows = np.concatenate([np.arange(self._first[shard], self._first[shard + 1]) for shard in chosen])
        earlier = np.full(len(rows), number)
        if self._shares is not None:
            visits = self._shares.visits(number)
            times = visits.times[rows]
            rows = np.repeat(rows, times)
            again = np.arange(len(rows)) - np.repeat(np.cumsum(times) - times, times)  # in this pass
            earlier = visits.before[rows] + again
        places = shuffle(len(rows), hashed(self.seed, _ROWS, number, window))
        self._window = (number, window, rows[places], earlier[places])
        return start, *self._window[2:]

    def _shards_of(self, number: int) -> tuple[Int64, Int64]:
        """Of pass `number`: (the shards that hold rows, shuffled; where each window starts)."""
        kept = self._pass
        if kept is not None and kept[0] == number:
            return kept[1:]
        shards = self._shuffled(number)
        ends = np.cumsum(self._sizes_in(number)[shards])[self.window_shards - 1 :: self.window_shards]
        starts = np.concatenate([[0], ends[ends < self.num_rows]])
        self._pass = (number, shards, starts)
        return shards, starts

    def _sizes_in(self, number: int) -> Int64:
        """Positions of each shard in pass `number`."""
        if self._shares is None:
            return self.sizes
        return np.diff(np.concatenate([[0], np.cumsum(self._shares.visits(number).times)])[self._first])

    def _shuffled(self, number: int) -> Int64:
        return self._filled[shuffle(len(self._filled), hashed(self.seed, _SHARDS, number))]


@dataclass(frozen=True)
class Segment:
    """From `first_step` on a domain consists of the first `num_shards` shards of its index, with digest `digest`."""

    first_step: int
    num_shards: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class Domain:
    """One source of a group: `quota` samples of each group come from it."""

    name: str
    quota: int
    index: Index  # the longest one that is known; a segment is a prefix of it
    sampling: Sampling = "natural"
    segments: tuple[Segment, ...] = ()  # empty: one, from step 0 on, of the whole index


@dataclass(frozen=True, eq=False)
class Take:
    """What a rank takes of a domain at a step: positions `first` .. `first` + groups * quota of `order`."""

    domain: str
    quota: int
    groups: int
    order: Order
    first: int
    segment: int

    @property
    def count(self) -> int:
        """How many samples."""
        return self.groups * self.quota

    def rows(self) -> Int64:
        """Row numbers, int64 (groups, quota)."""
        return self.order.rows(self.first, self.count).reshape(self.groups, self.quota)

    def passes(self) -> Int64:
        """For each slot how often its row came before, int64 (groups, quota); other segments have other numbers.

        With the sample's uid it is the key of the random numbers for that sample.
        """
        earlier = self.order.earlier(self.first, self.count)
        return ((self.segment << _SEGMENT_BITS) + earlier).reshape(self.groups, self.quota)

    def coming(self) -> Int64:
        """The shards of the next window after the last of these rows."""
        return self.order.coming(self.first + self.count - 1)

    def spare(self, slot: int, attempt: int) -> int:
        """The row for `slot` (0 .. count) after its own and `attempt` spares were bad."""
        return self.order.spare(self.first + slot, attempt)


class SampleOrder:
    """Which rows a rank takes at a step.

    A group is `quota` samples of each domain, domain by domain. A step is `groups` groups over all ranks. Rank r of R
    takes groups r * groups / R .. (r + 1) * groups / R. So quotas are exact in every group, all ranks take equally
    many, and the order over all ranks does not depend on their number.
    """

    def __init__(
        self, domains: Sequence[Domain], *, groups: int, seed: int, window_shards: int, epoch_steps: int
    ) -> None:
        """Raises ValueError for a quota, a number of groups or an epoch below 1, equal names, an empty domain, or
        segments that do not follow each other at the ends of epochs."""
        for word, value in {"groups": groups, "epoch_steps": epoch_steps, "window_shards": window_shards}.items():
            if value < 1:
                raise ValueError(f"{word}: found {value}, expected at least 1")
        names = [domain.name for domain in domains]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"domains: found the names {names}, expected at least one and each once")
        self.domains = tuple(_checked(domain, epoch_steps) for domain in domains)
        self.groups = groups
        self.seed = seed
        self.window_shards = window_shards
        self.epoch_steps = epoch_steps
        self._orders: dict[tuple[int, int], Order] = {}

    def takes(self, step: int, rank: int = 0, world: int = 1) -> list[Take]:
        """What `rank` of `world` takes at `step`, one `Take` for each domain. Raises ValueError if the ranks cannot all
        get equally many groups."""
        if world < 1 or not 0 <= rank < world:
            raise ValueError(f"rank: found {rank} of {world}, expected 0..{max(world, 1) - 1}")
        if self.groups % world:
            raise ValueError(
                f"groups: found {self.groups} groups for {world} ranks, expected a multiple of {world}; "
                "change the groups of a step or the number of ranks"
            )
        if step < 0:
            raise ValueError(f"step: found {step}, expected 0 or more")
        share = self.groups // world
        takes = []
        for number, domain in enumerate(self.domains):
            segment = _segment_at(domain, step)
            group = (step - domain.segments[segment].first_step) * self.groups + rank * share
            order = self._order(number, segment)
            takes.append(Take(domain.name, domain.quota, share, order, group * domain.quota, segment))
        return takes

    def grow(self, name: str, step: int, index: Index) -> "SampleOrder":
        """The schedule in which domain `name` consists of the whole `index` from `step` on.

        Raises ValueError if `step` is not the end of an epoch or is before an earlier growth, or if `index` does not
        begin with the shards in use.
        """
        if name not in [domain.name for domain in self.domains]:
            raise ValueError(f"domain: found {name!r}, expected one of {[domain.name for domain in self.domains]}")
        domains = []
        for domain in self.domains:
            if domain.name == name:
                old = domain.segments[-1]
                _check_digest(domain.name, index, old)
                new = Segment(step, len(index.tars), index.digest)
                domain = replace(domain, index=index, segments=(*domain.segments, new))
            domains.append(domain)
        return SampleOrder(
            domains,
            groups=self.groups,
            seed=self.seed,
            window_shards=self.window_shards,
            epoch_steps=self.epoch_steps,
        )

    def state(self, step: int) -> dict[str, Any]:
        """What a checkpoint stores so that the training can go on with `step`: a JSON object of numbers and hashes."""
        return {
            "version": STATE_VERSION,
            "step": step,
            "groups": self.groups,
            "seed": self.seed,
            "window_shards": self.window_shards,
            "epoch_steps": self.epoch_steps,
            "domains": [
                {
                    "name": domain.name,
                    "quota": domain.quota,
                    "sampling": domain.sampling,
                    "segments": [[part.first_step, part.num_shards, part.digest] for part in domain.segments],
                }
                for domain in self.domains
            ],
        }

    def resume(self, state: Mapping[str, Any]) -> tuple["SampleOrder", int]:
        """The schedule of `state` over the data of this one, and the step to go on with.

        This schedule is that of the present recipe. Raises ValueError if the state belongs to another recipe or to
        other data; later shards are allowed.
        """
        try:
            version, step = int(state["version"]), int(state["step"])
            plan = {word: int(state[word]) for word in ("groups", "seed", "window_shards", "epoch_steps")}
            # a state of before had no sampling
            made_with = {
                str(entry["name"]): (int(entry["quota"]), str(entry.get("sampling", "natural")))
                for entry in state["domains"]
            }
            segments = {
                str(entry["name"]): tuple(Segment(int(s), int(n), str(digest)) for s, n, digest in entry["segments"])
                for entry in state["domains"]
            }
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"state of the stream: bad or missing field {str(error)[:60]}; take an earlier checkpoint"
            ) from None
        if version != STATE_VERSION:
            raise ValueError(f"state of the stream: found version {version}, expected {STATE_VERSION}")
        for word, old in plan.items():
            if old != getattr(self, word):
                raise ValueError(
                    f"{word}: found {getattr(self, word)}, the checkpoint was made with {old}; "
                    "use that value, or start a new run"
                )
        asked = {domain.name: (domain.quota, domain.sampling) for domain in self.domains}
        if list(asked.items()) != list(made_with.items()):
            raise ValueError(
                f"domains, quotas and samplings: found {asked}, the checkpoint was made with {made_with}; "
                "use those, or start a new run"
            )
        domains = []
        for domain in self.domains:
            if not segments[domain.name]:
                raise ValueError(
                    f"state of the stream: domain {domain.name} has no segment; take an earlier checkpoint"
                )
            _check_digest(domain.name, domain.index, segments[domain.name][-1])
            domains.append(replace(domain, segments=segments[domain.name]))
        return SampleOrder(domains, **plan), step

    def _order(self, number: int, segment: int) -> Order:
        if (number, segment) not in self._orders:
            domain = self.domains[number]
            sizes = np.diff(domain.index.first)[: domain.segments[segment].num_shards]
            seed = hashed(self.seed, _DOMAIN, number, segment)
            shares = None
            if domain.sampling != "natural":
                labels = domain.index.label[: int(sizes.sum())]
                shares = ClassShares(labels, domain.sampling, hashed(seed, _CLASSES))
            self._orders[number, segment] = Order(sizes, seed, self.window_shards, shares)
        return self._orders[number, segment]


def _checked(domain: Domain, epoch_steps: int) -> Domain:
    """`domain` with its segments. Raises ValueError as `SampleOrder` says."""
    if domain.quota < 1:
        raise ValueError(
            f"quota of domain {domain.name}: found {domain.quota}, expected at least 1; leave the domain out instead"
        )
    segments = domain.segments or (Segment(0, len(domain.index.tars), domain.index.digest),)
    if segments[0].first_step != 0:
        raise ValueError(f"domain {domain.name}: its first segment begins at step {segments[0].first_step}, expected 0")
    for before, after in itertools.pairwise(segments):
        if after.first_step <= before.first_step or after.first_step % epoch_steps:
            raise ValueError(
                f"domain {domain.name}: found growth at step {after.first_step}, expected the end of an epoch "
                f"(a multiple of {epoch_steps}) after step {before.first_step}"
            )
        if after.num_shards < before.num_shards:
            raise ValueError(
                f"domain {domain.name}: found {after.num_shards} shards at step {after.first_step}, expected at least "
                f"the {before.num_shards} in use before; a data set may only grow"
            )
    if int(domain.index.first[min(segments[0].num_shards, len(domain.index.tars))]) == 0:
        raise ValueError(
            f"domain {domain.name}: found no sample in {domain.index.url}, expected at least one; generate some first"
        )
    return replace(domain, segments=segments)


def _segment_at(domain: Domain, step: int) -> int:
    """Number of the segment that `step` lies in."""
    return max(number for number, segment in enumerate(domain.segments) if segment.first_step <= step)


def _check_digest(name: str, index: Index, segment: Segment) -> None:
    """Raises ValueError unless `index` begins with the data of `segment`."""
    found = len(index.tars)
    if found < segment.num_shards:
        raise ValueError(
            f"domain {name}: found {found} shards in {index.url}, the run was at {segment.num_shards} already; "
            "bring the missing shards back, or start a new run"
        )
    digest = index.prefix(segment.num_shards).digest
    if digest != segment.digest:
        raise ValueError(
            f"domain {name}: {index.url} has the digest {digest[:16]}, the run was made with {segment.digest[:16]}; "
            "bring that data back, or start a new run"
        )

"""How a run ended: counts from the records of a scale's shards, and what to do about what is missing.

In: the plan, the records before and after the call, the summary of the fan-out. Out: a `MakeOutcome`.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from cluster.fan_out.work import Summary
from cluster.process.exit import EXIT_COMPLETE, EXIT_INCOMPLETE
from gen.make.plan import Plan
from gen.make.scale import scale_name
from shards.disk.amounts import counted
from shards.disk.layout import SUCCESS
from shards.disk.record import Record

MAX_LISTED = 20  # units and shards in one message
NO_ADVICE: Mapping[str, str] = {}


@dataclass(frozen=True)
class MakeOutcome:
    """How a call of `run` ended, for people (`sentence`) and for scripts (`as_json`, `exit_code`)."""

    scale: str
    asked_images: int  # of this scale
    asked_units: int
    images: int  # successes in the shards of this scale
    done_units: int
    made_units: int  # by this call
    rejected: Mapping[str, int]  # status -> draws, over the shards of this scale
    short: Mapping[int, int]  # shard -> slots that no draw filled
    work: Summary | None  # of the fan-out; None if there was nothing to do
    seconds: float
    when_short: str = "raise shards.max_draws in a new output"
    lasting: Mapping[str, str] = field(default_factory=dict)  # status that every draw of a sample has -> what to do

    @property
    def exit_code(self) -> int:
        """The code that the command ends with."""
        if self.work is not None and self.work.exit_code != EXIT_COMPLETE:
            return self.work.exit_code
        return EXIT_INCOMPLETE if self.short or self.done_units < self.asked_units else EXIT_COMPLETE

    def sentence(self) -> str:
        """What there is now; on a second line what is missing and what to do."""
        there = f"{self.scale}: {counted(self.images, 'image')} in {self.done_units:,} of "
        there += counted(self.asked_units, "shard")
        if self.rejected:
            last = sum(self.short.values())  # draws after which there was no other one
            there += ", rejected: " if last else ", rejected and drawn again: "
            there += ", ".join(f"{num} {name}" for name, num in self.rejected.items())
            there += f" ({sum(self.rejected.values()) - last or 'none'} of them drawn again)" if last else ""
        if self.work is None:
            there += "; nothing was left to make"
        else:
            worked = max(self.work.seconds - self.work.start_s, 1e-3)
            there += f"; this call made {self.work.images:,} in {self.seconds:.0f} s, of which {worked:.0f} s at work "
            there += f"({self.work.images / worked:.1f} images/s)"
        problem = self.problem()
        return f"{there}\nnot complete: {problem}" if problem else there

    def problem(self) -> str:
        """Why it is not complete and what to do; "" if it is."""
        work = self.work
        if work is not None and work.error:
            return work.error
        if work is not None and work.drained:
            return "stopped on request; run the same command again to continue"
        if work is not None and work.quarantined:
            units = "; ".join(f"unit {one.unit}: {one.cause}" for one in work.quarantined[:MAX_LISTED])
            gave_up = counted(len(work.quarantined), "unit")
            return f"gave up {gave_up} ({units}); run the same command again to try once more"
        if self.short:
            shards = ", ".join(str(shard) for shard in list(self.short)[:MAX_LISTED])
            num = sum(self.short.values())
            return (
                f"no image after all draws for {counted(num, 'sample')} in shards {shards}; their rows say why; "
                f"{self._advice(num)}"
            )
        return ""

    def _advice(self, num_short: int) -> str:
        """What to do about samples without an image."""
        statuses = [status for status in self.rejected if status in self.lasting]
        num = min(num_short, sum(self.rejected[status] for status in statuses))
        told = [f"{self.lasting[status]} ({status})" for status in statuses] if num else []
        return "; ".join([*told, *([self.when_short] if num < num_short else [])])

    def as_json(self) -> dict[str, Any]:
        """The contents of summary.json."""
        return {
            "scale": self.scale,
            "asked": {"images": self.asked_images, "units": self.asked_units},
            "there": {"images": self.images, "units": self.done_units},
            "made_units": self.made_units,
            "rejected": dict(self.rejected),
            "short": {str(shard): num for shard, num in self.short.items()},
            "work": None if self.work is None else self.work.as_json(),
            "seconds": round(self.seconds, 3),
            "exit_code": self.exit_code,
        }


def asked_of(plan: Plan, scale: Fraction) -> dict[str, Any]:
    """The contents of summary.json while a call is at work: what it was asked for, and no exit code."""
    asked = {"images": plan.num_samples(scale), "units": plan.num_units(scale)}
    return {"scale": scale_name(scale), "asked": asked, "exit_code": None}


def outcome_of(
    plan: Plan,
    scale: Fraction,
    before: Mapping[int, Record],
    records: Mapping[int, Record],
    work: Summary | None,
    seconds: float,
    when_short: str = MakeOutcome.when_short,
    lasting: Mapping[str, str] = NO_ADVICE,
) -> MakeOutcome:
    """What there is of a scale after a call. `before` and `records`: shard -> record, before the call and after it.
    `when_short`: what to do about samples without an image; `lasting`: likewise where more draws would change nothing,
    by the status of their draws."""
    there = {unit: records[unit] for unit in plan.units(scale) if unit in records}
    statuses: Counter[str] = Counter()
    for record in there.values():
        statuses.update(record.status_dict)
    images = statuses.pop(SUCCESS, 0)
    return MakeOutcome(
        scale=scale_name(scale),
        asked_images=plan.num_samples(scale),
        asked_units=plan.num_units(scale),
        images=images,
        done_units=len(there),
        made_units=sum(unit not in before for unit in there),
        rejected=dict(sorted(statuses.items())),
        short={unit: record.short for unit, record in there.items() if record.short},
        work=work,
        seconds=seconds,
        when_short=when_short,
        lasting=lasting,
    )

"""What the other side says of a job.

In: nothing. Out: `JobState`. On disk: nothing.
"""

from dataclasses import dataclass

ENDED = frozenset(
    {
        # of SLURM
        *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"),
        "TIMEOUT",
        # of Ray, and of KubeRay in capitals
        *("STOPPED", "SUCCEEDED", "COMPLETE"),
    }
)


@dataclass(frozen=True)
class JobState:
    """The state of a job, or of a task of an array."""

    id: str
    state: str  # RUNNING, PENDING, COMPLETED, ...
    reason: str  # why it waits, or why it ended
    restarts: int = 0

    @property
    def lives(self) -> bool:
        """Whether it runs, or will."""
        return self.state not in ENDED

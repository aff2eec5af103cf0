"""What the other side says of a job, or that it says nothing.

In: nothing. Out: `JobState`, `JobError`. On disk: nothing.
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


class JobError(RuntimeError):
    """A job cannot be handed over, or asked for; the message is one line. `unclear`: there was no answer, so it may be
    there all the same."""

    def __init__(self, said: str, unclear: bool = False) -> None:
        super().__init__(said)
        self.unclear = unclear


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

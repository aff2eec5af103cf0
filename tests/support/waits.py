"""What a program said, without what it told of waits: that depends on how fast the machine is."""

from cluster.waiting import MARK


def without_waits(told: str) -> str:
    """All other lines of a program's output."""
    return "".join(line for line in told.splitlines(keepends=True) if not line.startswith(MARK))

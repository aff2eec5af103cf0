"""One training from start to end: ranks, stream, checkpoints, stop, log, resume."""

"""The life of a training: ranks, stream, checkpoints, stop, log, resume."""

"""A data set: written, committed, listed, verified, repaired."""

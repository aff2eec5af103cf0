"""Training on streaming shards and evaluation (not built yet)."""

"""A model on disk becomes a pipeline in memory: checked, loaded, tuned, compiled."""

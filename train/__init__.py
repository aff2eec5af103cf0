"""Shards into a trained model: training, evaluation, sweeps, reports."""

"""Samples to shards: plan, slots, draw, screen, draw again, write."""

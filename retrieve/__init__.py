"""The retrieval baseline: real images, found by caption and by embedding."""

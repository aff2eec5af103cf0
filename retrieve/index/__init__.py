"""Approximate search by embedding: an index of a pool's vectors that is built once and asked often."""

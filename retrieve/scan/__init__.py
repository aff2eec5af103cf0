"""Exact search by embedding: every query against every vector of a pool."""

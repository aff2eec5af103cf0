"""Retrieval: pools, searches, filters, downloads, servers."""

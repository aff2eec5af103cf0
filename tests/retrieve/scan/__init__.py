"""Exact search by embedding."""

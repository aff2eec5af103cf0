"""Makers of retrieved images."""

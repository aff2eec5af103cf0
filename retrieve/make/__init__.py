"""Makers of retrieved images, from what a search has found."""

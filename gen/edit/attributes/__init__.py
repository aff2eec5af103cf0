"""Attributes: what an edit puts into an image, feasible or not, and how its result is asked about."""

"""Priors: the pixels that an edit starts from, and how its result is put back; no model."""

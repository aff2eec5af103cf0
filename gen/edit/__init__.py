"""Edits and perturbation of images."""

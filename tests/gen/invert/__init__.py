"""Tests of gen.invert."""

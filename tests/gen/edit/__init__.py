"""Tests of gen.edit."""

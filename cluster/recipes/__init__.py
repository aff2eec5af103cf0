"""Recipes: YAML in, checked models out, mistakes in one line."""

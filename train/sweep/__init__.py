"""Grids of trainings: recipe changes times seeds."""

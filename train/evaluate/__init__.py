"""How often a model is right, on which sets, and the lines that keep it."""

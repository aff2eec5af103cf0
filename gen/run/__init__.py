"""One run: a recipe, a scale and an output in, a finished data set out; what it would make; images made again."""

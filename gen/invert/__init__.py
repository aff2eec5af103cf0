"""Style inversion: learns a new word for the style of a data set, and nothing else of the generator."""

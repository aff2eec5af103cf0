"""Which candidates of a class stay: CLIP scores, thresholds, the verb that filters a data set."""

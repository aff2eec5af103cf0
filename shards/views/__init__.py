"""A data set for people and for other tools: gallery, census, card, exports."""

"""Data sets for people and for other tools: gallery, census, card, exports, imported image folders."""

"""Pictures and captions of a pool through a CLIP: the vectors that a search looks in."""

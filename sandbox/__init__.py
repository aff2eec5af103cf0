"""The miniature world: real digits rendered as photographs, a small text-to-image pipeline and a small CLIP."""

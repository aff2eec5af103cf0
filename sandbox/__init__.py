"""A small world to try everything on: digits rendered as photographs, a text-to-image pipeline and a CLIP."""

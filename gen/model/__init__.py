"""Model folders, checked before anything is loaded from them, and CLIP."""

"""Search by caption."""

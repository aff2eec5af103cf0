"""What there is to search in."""

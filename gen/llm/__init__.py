"""Language models: asks go in, checked JSON comes out; cached, bounded, local or behind a server."""

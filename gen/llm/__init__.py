"""Language models, local or behind a server: questions go in, checked JSON comes out; answers are cached."""

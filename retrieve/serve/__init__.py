"""A pool that answers over HTTP: clip-retrieval's API, and a page for people."""

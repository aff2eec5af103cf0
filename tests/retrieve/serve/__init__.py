"""The server of a pool: its search, its API, its page."""

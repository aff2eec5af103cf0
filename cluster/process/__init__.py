"""One process: its identity, its environment, stop requests, failures, locks of a whole run."""

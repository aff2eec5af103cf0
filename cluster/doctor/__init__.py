"""What this machine, its cluster and the place of the output have, and what they lack for a run."""

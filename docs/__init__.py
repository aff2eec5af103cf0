"""Pages; docs/bench holds the programs that write a part of them, docs/data figures and pictures."""

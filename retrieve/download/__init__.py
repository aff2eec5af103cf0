"""Pictures fetched by their addresses: what may be asked for, the gate that requests pass, the program."""

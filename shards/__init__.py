"""Data sets: files, tars and tables, class lists, streaming, pages. Knows no prompt, no model and no cluster."""

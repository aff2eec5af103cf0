"""The rows of `make bench`, one file each; `measure.py` times, `page.py` prints and writes."""

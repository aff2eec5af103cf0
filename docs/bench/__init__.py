"""The rows of `make bench` and `make bench-stream`, one file each; `measure.py` times, `page.py` prints and writes."""

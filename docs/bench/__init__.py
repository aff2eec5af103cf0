"""Programs that measure, and programs that write pages of docs/. `measure.py` times, `page.py` writes tables."""

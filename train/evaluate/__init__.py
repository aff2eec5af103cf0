"""Test sets, accuracy, and the lines of results.jsonl."""

"""What is trained, step by step, and what is exported at the end."""

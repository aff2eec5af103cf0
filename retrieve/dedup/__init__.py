"""What is there twice: copies of test images, the same bytes, near-duplicates inside a set."""

"""What a training trains and what comes out of it."""

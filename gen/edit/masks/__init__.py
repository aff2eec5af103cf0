"""Where the object of an image is."""

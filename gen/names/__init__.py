"""Class names, each with its number of real images: where they come from, what is known about them."""

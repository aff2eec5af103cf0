"""Text to images: the spec of a sampler, its pipeline, its device, its speed."""

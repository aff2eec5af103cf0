"""Where and how work runs; knows nothing about images. The only package that imports Ray."""

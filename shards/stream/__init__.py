"""Data sets as batches for training and evaluation: index, order, reading, pixels, augmentation."""

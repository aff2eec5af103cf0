"""A data set as batches: order, index, bytes, pixels, augmentation."""

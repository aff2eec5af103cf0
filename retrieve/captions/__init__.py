"""Search by caption: the rows of a pool whose text names a class."""

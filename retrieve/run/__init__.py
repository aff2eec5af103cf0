"""The whole path of a retrieved data set: recipe, search, shards."""

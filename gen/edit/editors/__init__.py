"""Editors: what changes the pixels of a picture where an edit may change them."""

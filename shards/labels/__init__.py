"""Class lists, where they come from, and the one rule that gives class folders their ids."""

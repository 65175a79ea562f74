"""Data: from a path or an array to a `Dataset` with a `Schema`."""

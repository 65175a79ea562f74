"""Data: from a path or an array to a `Dataset` with a `Schema`.

Look into `loading` (open, conform, holdout, describe), `dataset`, `schema`, `transforms` and `writing`; importing this
package imports none of them.
"""

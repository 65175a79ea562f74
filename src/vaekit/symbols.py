"""The codes of a text's tokens that stand for no text; those of its own tokens begin at `FIRST`."""

PAD = 0
"""Behind the end of an item, up to the width of the array."""

END = 1
"""The end of an item; a decoder is also given it to begin with."""

UNKNOWN = 2
"""A token that the vocabulary lacks; in training, one that is hidden from a decoder."""

FIRST = 3
"""The code of the first token of the vocabulary."""

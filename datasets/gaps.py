"""How a text says that something is missing: one mark for every reader of texts.

A gap is written ``[?]`` where a word (topics of words) or a character (sequences) is not known.
"""

GAP = "[?]"

"""From names to values: models with their tokenizers, of every format, and text, cut into windows.

It uses `architecture` and the rooms below it.

split: text for searching, for healing or for the report, which never overlap; window: a token sequence of equal length.
"""

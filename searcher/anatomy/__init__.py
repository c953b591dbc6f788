"""What the blocks of a model do, measured: influence, updates, heads, similarity, replacement and interactions.

It uses `evaluation` and the rooms below it; one part of an analysis a file.
"""

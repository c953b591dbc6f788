"""What the blocks of a model do, measured: influence, updates, heads, similarity, replacement and interactions.

Each part is a module of its own, with a function that measures, one that says before what it will cost, and a frozen
result of numpy arrays. `arrays()` of a result gives what is worth keeping in files, `facts()` what is to be said about
them, as JSON.
"""

"""What a causal LM is made of: where its blocks are, which fields of its config speak of them, and what may stand in
their place.

It uses `contracts`.

replacement module: what stands where something was removed; custom model: one with parts gone that stock classes of
transformers cannot express.
"""

"""Running a model under a plan, block by block, and what it takes: the mathematics that makes plans cheap.

It uses `loading` and the rooms below it.

block inputs: what a block receives beside hidden states, recorded once; head: final norm, output head and loss, fused;
footprint: parameters, bytes and FLOPs of each part; self-check: replay equals the model's own forward.
"""

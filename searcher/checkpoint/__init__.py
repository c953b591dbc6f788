"""A pruned and healed model in a folder that loads again and gives what the search measured.

It uses `replay` and the rooms below it.

form: how a plan is written, as an ordinary model of whole blocks, with zeroed sublayers, or as a custom one.
"""

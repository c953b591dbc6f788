"""What is fitted on the heal split to a model that a plan has taken parts of; one method a file.

It uses `replay` and the rooms below it.

calibration: the model and the text that a healing is given; repair: what healing changes; gap: consecutive blocks that
a plan removes; trainable: what is trained, in float32, and the model with it in place; store: repairs kept in a folder.
"""

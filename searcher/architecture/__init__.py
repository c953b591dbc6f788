"""What a causal LM is made of: where its blocks are, which fields of its config speak of them, and what may stand in
their place.

It uses `contracts`.

replacement module: what stands where something was removed; custom model: one with parts gone that stock classes of
transformers cannot express.
"""

import logging

# where torchao is installed transformers imports it, and it tells of each file that is for other hardware
logging.getLogger("torchao").addFilter(lambda record: "Failed to load" not in record.getMessage())
logging.getLogger("torch.utils._pytree").addFilter(lambda record: "Enum subclass" not in record.getMessage())

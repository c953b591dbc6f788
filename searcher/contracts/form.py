"""The forms that a pruned model can be saved in; by itself, so that `--help` needs no torch."""

from enum import StrEnum


class Form(StrEnum):
    """How a checkpoint is written."""

    STOCK = "stock"
    """Whole blocks are gone; an ordinary checkpoint."""
    ZEROED = "zeroed"
    """The weights of removed sublayers are zero; an ordinary checkpoint of full size."""
    CUSTOM = "custom"
    """Sublayers are gone too, or modules were put in; loaded by `searcher.load`."""

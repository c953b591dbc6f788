"""Text that the dense model writes itself, as it is asked for: `generated:N` or `generated:N:SEED`."""

import re
from dataclasses import dataclass

from searcher.errors import UsageError

PREFIX = "generated"
_WANTED = "Write it as generated:160, or generated:160:1 with a seed; name a file of such a name as ./generated:160"


@dataclass(frozen=True)
class Generated:
    """So many windows that the dense model writes.

    Attributes:
        windows: how many, 2 or more.
        seed: of what is drawn.
    """

    windows: int
    seed: int = 0

    @property
    def name(self) -> str:
        """What tables call the text."""
        return f"{PREFIX}:{self.windows}" + (f":{self.seed}" if self.seed else "")


def parse_generated(data: str) -> Generated | None:
    """The text to generate that is asked for; None where `data` names another text.

    Raises:
        UsageError: it is not written as it must be, or is too little to be split.
    """
    if not data.startswith(f"{PREFIX}:"):
        return None
    found = re.fullmatch(rf"{PREFIX}:(\d+)(?::(\d+))?", data, re.ASCII)
    if found is None:
        raise UsageError(f"Data '{data}' does not say how many windows the model is to write", _WANTED)
    windows, seed = int(found[1]), int(found[2] or 0)
    if windows < 2:
        raise UsageError(f"Data '{data}' is too little: some of it is held out", "Ask for 2 windows or more")
    if seed >= 2**32:
        raise UsageError(f"Data '{data}' has a seed of {seed:,}", "Give one below 2^32")
    return Generated(windows, seed)

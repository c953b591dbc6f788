"""What healing one plan in several ways has given, for whoever shows it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from searcher.contracts.objective import Objective
from searcher.contracts.plan import PrunePlan
from searcher.healing.heal import Healed

Rows = dict[str, NDArray[np.float64]]
"""An objective's numbers on the report split, by name."""


@dataclass(frozen=True, eq=False)
class HealedPlan:
    """A plan healed in one way.

    Attributes:
        spec: how.
        plan: the healed plan.
        control: the dense model, healed the same way.
        rows: numbers of the healed plan.
        control_rows: numbers of the healed dense model.
    """

    spec: str
    plan: Healed
    control: Healed
    rows: Rows
    control_rows: Rows


@dataclass(frozen=True, eq=False)
class Healings:
    """A plan before and after healing, on the report split.

    Attributes:
        model: its name.
        text: its name.
        plan: what is removed.
        objectives: by label.
        documents: of each report window, the document it was cut from.
        text_names: of the texts that are measured on.
        texts: of each report window, the number of its text; empty where there is but one.
        heal_text: name of what is healed on.
        windows: windows of the heal split, those held out among them.
        window_tokens: their length.
        dense: numbers of the dense model.
        before: numbers of the plan as it is.
        healed: the healings, in the order asked for.
    """

    model: str
    text: str
    plan: PrunePlan
    objectives: dict[str, Objective]
    documents: tuple[int, ...]
    text_names: tuple[str, ...]
    texts: tuple[int, ...]
    heal_text: str
    windows: int
    window_tokens: int
    dense: Rows
    before: Rows
    healed: tuple[HealedPlan, ...]

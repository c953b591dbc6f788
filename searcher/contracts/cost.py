"""What replaying plans costs, in layer-forwards and heads."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Prices:
    """FLOPs of the parts of a model, relative to one whole block.

    Attributes:
        weight: by `Action`: what is left of a block to run, `(1, FFN share, attention share, 0)`.
        head: one output head with its loss.
    """

    weight: tuple[float, float, float, float]
    head: float


@dataclass
class Cost:
    """Work done or charged.

    Attributes:
        evaluations: plans measured on all search windows; a plan on a part of them counts as that part, and work that
            measures none as the number of plans that would cost as much, see `searcher.contracts.tariff`.
        layer_forwards: one block over one window each; own inputs of objectives count by their tokens.
        heads: output heads over one window each.
    """

    evaluations: float = 0.0
    layer_forwards: float = 0.0
    heads: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.evaluations + other.evaluations,
            self.layer_forwards + other.layer_forwards,
            self.heads + other.heads,
        )

"""Gates on units: a quadratic model from gradients, minimised over relaxed plans, then raced."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from searcher.contracts.plan import DENSE, PrunePlan
from searcher.contracts.racing import rank
from searcher.contracts.scoreboard import Scoreboard, removal_matrix
from searcher.contracts.space import Space
from searcher.contracts.strategy import Ask, Scores, Search, SearchStopped, Strategy
from strategies.quadratic import Quadratic, lowest, rank_correlation
from strategies.relaxed import annealed

CURVATURES = (1.0, 4.0, 16.0, 64.0)
"""What the curvature is multiplied by, in turn; see :class:`Gates`."""
TABU_STARTS = 1
"""Rounded plans of each model, the best, from which its lowest are searched for where they cannot be enumerated."""


@dataclass(frozen=True)
class Gates(Strategy):
    """Predict the loss of every plan from gradients by gates on units, and race the plans predicted best.

    Each unit's share of the hidden states is multiplied by a gate g, 1 in the dense model and 0 where the unit is
    removed; z = 1 - g. The loss is taken to be L(z) = L(0) + sum_i a_i z_i + 1/2 sum_ij H_ij z_i z_j, where
    a_i = -mean_w dL_w/dg_i over the search windows w, and H = c F with the empirical Fisher matrix
    F_ij = mean_w (dL_w/dg_i) (dL_w/dg_j). A few windows say little of pairs, so F is drawn towards its diagonal, the
    more the less the windows agree. A gradient knows the near surroundings of the dense model, and a plan is far away:
    how much the curvature counts there is not known, nor is a strategy told how many tokens a window has (F of single
    tokens is that many times F of window means, if their errors are independent). So there are models with c = 1, 4, 16
    and 64, which propose in turn: plans rounded from relaxed gates that mean field annealing has trained for a few
    dozen steps, from several starts, and the lowest plans of the model itself. How well each model ranked what was then
    measured is part of the outcome.

    When to use it: as the comparison from gradients. Before the first plan it costs about three passes.

    Source: the quadratic (Ising) form with a fixed number of removals, arXiv:2602.00161, there from second derivatives;
    masks, their first-order term and the empirical Fisher matrix in place of the Hessian: Kwon et al. 2022,
    arXiv:2204.09656 (1/|D| sum over samples of (dL/dm) (dL/dm)^T at masks m = 1; a sample is a window here); how far it
    is drawn: Schaefer & Strimmer 2005 (Statistical Applications in Genetics and Molecular Biology 4, target D: the sum
    of the variances of F_ij over that of F_ij^2, i != j); relaxed gates with Gumbel noise: Maddison et al. 2017,
    arXiv:1611.00712.

    Args:
        plans: distinct plans of each size that race, at most.
        samples: starts of the relaxation for each model and size, the first of them without noise.
        steps: of each start.
        temperature: the first one of the annealing and that of the noise, in standard deviations of what single units
            cost by the model.
    """

    plans: Annotated[int, Field(ge=1)] = 64
    samples: Annotated[int, Field(ge=1)] = 12
    steps: Annotated[int, Field(ge=1)] = 30
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.5

    races: ClassVar[bool] = True
    statistics: ClassVar[tuple[str, ...]] = ("gate-gradients",)

    def search(self, space: Space) -> Search:
        """All sizes together, those predicted best first, so that a limit leaves the best of each."""
        board, rng = Scoreboard(space), space.rng()
        models = quadratics(space.statistics["gate-gradients"])
        found = {size: self._proposed(models, space, size, rng) for size in reversed(space.sizes)}
        proposed = {size: plans for size, (plans, _) in found.items()}
        try:
            yield from _race(board, [plan for turn in zip_longest(*proposed.values()) for plan in turn if plan])
        except SearchStopped as stop:
            board.learn(stop.scores)
        board.preferred = tuple(plans[0] for size, plans in proposed.items() if not board.ranked(size))
        return board.outcome(_notes(board, models, proposed, {size: gates for size, (_, gates) in found.items()}))

    def _proposed(
        self, models: Sequence[Quadratic], space: Space, size: int, rng: np.random.Generator
    ) -> tuple[list[PrunePlan], NDArray[np.float64]]:
        """Distinct plans of this size, those first that come first for a model; float64 (models, units): gates."""
        noise = rng.logistic(size=(self.samples, len(space.units)))
        noise[0] = 0.0
        chances, costs = annealed(models, size, noise, self.steps, self.temperature)
        lists: list[Iterator[PrunePlan]] = []
        for model, of_start in zip(models, costs, strict=True):
            rounded = list(dict.fromkeys(_rounded(space, cost, size) for cost in of_start))
            best = sorted(rounded, key=lambda plan: (_predicted(model, [plan], space)[0], plan))
            least = lowest(model, space, size, best[:TABU_STARTS], self.plans)
            lists += [iter([plan for _, plan in least]), iter(rounded)]
        in_turn = dict.fromkeys(plan for turn in zip_longest(*lists) for plan in turn if plan)
        return list(in_turn)[: self.plans], 1.0 - chances[:, 0]


def quadratics(gradients: NDArray[np.float64]) -> list[Quadratic]:
    """The models of what plans lose against the dense model, one for each of `CURVATURES`.

    Args:
        gradients: float64 (windows, units), dL_w/dg_i.
    """
    slopes, fisher = -gradients.mean(axis=0), _shrunk_fisher(gradients)
    off_diagonal = fisher - np.diag(fisher.diagonal())
    # z is 0 or 1, so that z * z = z: the diagonal joins the slopes
    return [Quadratic(0.0, slopes + c * fisher.diagonal() / 2, c * off_diagonal).rounded() for c in CURVATURES]


def _shrunk_fisher(gradients: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64 (units, units): F, drawn towards its diagonal; the diagonal alone where there is one window."""
    count, apart = len(gradients), ~np.eye(gradients.shape[1], dtype=np.bool_)
    fisher = gradients.T @ gradients / count
    squares = (gradients**2).T @ gradients**2 / count  # mean_w (G_wi G_wj)^2
    variance = ((squares - fisher**2)[apart] / max(count - 1, 1)).sum()
    total = (fisher[apart] ** 2).sum()
    share = 1.0 if count == 1 or total == 0 else float(np.clip(variance / total, 0.0, 1.0))
    shrunk: NDArray[np.float64] = np.where(apart, (1.0 - share) * fisher, fisher)
    return shrunk


def _rounded(space: Space, cost: NDArray[np.float64], size: int) -> PrunePlan:
    """The legal plan that removes the cheapest units."""
    return space.filled(DENSE, [space.units[i] for i in cost.argsort(kind="stable")], size)


def _predicted(model: Quadratic, plans: Sequence[PrunePlan], space: Space) -> list[float]:
    predicted: list[float] = model.predict(removal_matrix(plans, space)).round(12).tolist()
    return predicted


def _race(board: Scoreboard, plans: list[PrunePlan]) -> Generator[Ask, Scores, None]:
    """Race the plans of each size, in batches that the limits allow, each against the best so far.

    Raises:
        SearchStopped: a limit has come.
    """
    space = board.space
    while plans:
        batch = plans[: board.affordable(plans)] or plans
        plans = plans[len(batch) :]
        rivals = [board.ranked(size)[0] for size in space.sizes if board.ranked(size)] if space.racing else []
        board.learn((yield from rank(space, (*batch, *rivals))).scores)


def _notes(
    board: Scoreboard,
    models: Sequence[Quadratic],
    proposed: dict[int, list[PrunePlan]],
    gates: dict[int, NDArray[np.float64]],
) -> dict[str, Any]:
    """JSON values: gates and costs by unit for each model, and how each ranked the plans that were measured."""
    space = board.space
    names = [f"{curvature:g}" for curvature in CURVATURES]
    slopes = -space.statistics["gate-gradients"].mean(axis=0)
    ranked: list[dict[str, Any]] = []
    for size, plans in proposed.items():
        measured = [plan for plan in plans if np.isfinite(board.scores.get(plan, np.nan))]
        scores = [board.scores[plan] for plan in measured]
        told = [rank_correlation(_predicted(model, measured, space), scores) for model in models]
        ranked.append({"size": size, "plans": len(measured), "rank_correlation": dict(zip(names, told, strict=True))})
    return {
        "slopes": _by_unit(space, slopes),
        "models": {name: {"units": _by_unit(space, model.single)} for name, model in zip(names, models, strict=True)},
        "gates": {
            str(size): {name: _by_unit(space, row) for name, row in zip(names, rows, strict=True)}
            for size, rows in gates.items()
        },
        "races": ranked,
        "summary": [_line(ranked[0])],
    }


def _by_unit(space: Space, values: NDArray[np.float64]) -> dict[str, float]:
    return {str(unit): float(value) for unit, value in zip(space.units, values, strict=True)}


def _line(race: dict[str, Any]) -> str:
    of_model = ", ".join(
        f"{'unknown' if value is None else f'{value:.2f}'} with curvature times {name}"
        for name, value in race["rank_correlation"].items()
    )
    return f"Rank correlation of the prediction with {race['plans']} measured plans of size {race['size']}: {of_model}."

"""Statistics of the dense model, measured: see `searcher.contracts.statistics` for what they are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from searcher.architecture.devices import check_float64
from searcher.architecture.packed_weights import gives_gradients, refuse_packed
from searcher.architecture.streamed_modules import present
from searcher.contracts.plan import Action, Part, PrunePlan, Unit
from searcher.contracts.statistics import MAPS, NEED_PLAIN, blocks_to_open, shape_of
from searcher.errors import UsageError
from searcher.replay.dense_cache import DenseCache
from searcher.replay.gate_gradients import measure_gate_gradients
from searcher.replay.gradients import measure_taylor, weights_of
from searcher.replay.replay import Replay

STATES = 1 << 30
"""Bytes of the dense model's states that are held at a time while weights are streamed."""
RESIDENT = {
    "taylor": "takes gradients by the weights",
    "gate-gradients": "takes gradients through the blocks",
    "logits": "runs the rest of the model once for each unit",
}
"""Statistics for which all weights must be in memory, and why."""
CHUNK = 1 << 24
"""float32 numbers that are computed with at a time: 64 MiB."""


@dataclass(frozen=True)
class DenseStates:
    """The dense model's states of one window, (1, tokens, hidden size) each.

    Attributes:
        ids: int64 (1, tokens), the window.
        entering: the states entering each block, and those leaving the last.
        between: by block, those between its attention and its FFN, of the blocks where they are needed.
    """

    ids: Tensor
    entering: list[Tensor]
    between: dict[int, Tensor]

    def around(self, unit: Unit) -> tuple[Tensor, Tensor]:
        """float32 (tokens, hidden size): the residual stream before and after what the unit adds."""
        before, after = self.entering[unit.block], self.entering[unit.block + 1]
        if unit.part is Part.ATTENTION:
            after = self.between[unit.block]
        elif unit.part is Part.FFN:
            before = self.between[unit.block]
        return before[0].to(after.device).float(), after[0].float()

    def at_boundaries(self) -> list[Tensor]:
        """The states at every boundary, in order and on one device; those between sublayers too, where every block was
        opened."""
        opened = [[state, self.between[i]] if i in self.between else [state] for i, state in enumerate(self.entering)]
        return [state.to(self.entering[-1].device) for states in opened for state in states]


OfUnits = Callable[[Replay, DenseStates, Sequence[Unit]], list[float]]
"""A number for each unit, from one window."""
OfStates = Callable[[DenseStates], Tensor]
"""float64 (boundaries, boundaries), from one window."""


def measure_statistics(
    replay: Replay, ids: Tensor, names: Sequence[str], units: Sequence[Unit]
) -> dict[str, NDArray[np.float64]]:
    """Measure statistics of the dense model.

    Args:
        replay: the model, checked for the granularity of the units, its weights by :func:`check_weights`; no inference
            tensors for `taylor` and `gate-gradients`.
        ids: int64 (windows, tokens); run one by one, so that one window's states are held at a time (for `taylor`,
            those of all windows).
        names: see `searcher.contracts.statistics`.
        units: whose statistics.

    Returns:
        By name, float64 of the shapes that `searcher.contracts.statistics.shape_of` gives.

    Raises:
        UsageError: the model gives no gradients by gates, or a device of it has no float64.
    """
    for device in replay.devices:
        check_float64(device, "A statistic of the dense model")
    found = _measure_passes(replay, ids, [name for name in names if name in OF_UNITS or name in OF_STATES], units)
    if "taylor" in names:
        found["taylor"] = np.array(measure_taylor(replay, ids, units))
    if "gate-gradients" in names:
        found["gate-gradients"] = measure_gate_gradients(replay, ids, units)
    if "magnitude" in names:
        found["magnitude"] = np.array([_magnitude(replay, unit) for unit in units])
    return {name: found[name] for name in names}


def check_weights(replay: Replay, names: Sequence[str]) -> None:
    """Refuse statistics that the model's weights do not allow, before anything is measured.

    Raises:
        UsageError: weights are quantised, and one of these statistics looks at them, or needs gradients that their
            library does not give; or they are streamed, and it needs all of them.
    """
    if replay.streamed:
        _refuse_streamed(names)
    hint = "Choose a strategy that reads only hidden states and losses, or weights that are not quantised"
    for name in names:
        if name in NEED_PLAIN:
            whole = "it sums over the weights of a unit, and packed ones are no numbers to sum or derive by"
            refuse_packed(replay.model, f"The statistic {name}", whole, hint)
        if name == "gate-gradients" and not gives_gradients(replay.model):
            reason = "the library that multiplies with them does not derive by what goes in"
            refuse_packed(replay.model, f"The statistic {name}", reason, hint)


def _refuse_streamed(names: Sequence[str]) -> None:
    for name in RESIDENT.keys() & set(names):
        raise UsageError(
            f"Statistic '{name}' {RESIDENT[name]}, and the weights are streamed",
            "Choose another statistic, such as cosine, or use --weights resident where there is room",
        )


def find_statistics(
    replay: Replay, ids: Tensor, names: Sequence[str], units: Sequence[Unit], cache: DenseCache
) -> tuple[dict[str, NDArray[np.float64]], tuple[str, ...]]:
    """Those that were kept, and the others measured as by :func:`measure_statistics`; and which these were."""
    of_units = " of " + ",".join(map(str, units))
    kept = {name: cache.find(name + of_units, [ids]) for name in names}
    missing = tuple(name for name, tensors in kept.items() if tensors is None)
    measured = measure_statistics(replay, ids, missing, units) if missing else {}
    for name, values in measured.items():
        cache.keep(name + of_units, [ids], {"values": torch.from_numpy(values)})
    known = {name: tensors["values"].numpy() for name, tensors in kept.items() if tensors is not None}
    return {name: known[name] if name in known else measured[name] for name in names}, missing


@torch.inference_mode()
def _measure_passes(
    replay: Replay, ids: Tensor, names: Sequence[str], units: Sequence[Unit]
) -> dict[str, NDArray[np.float64]]:
    """The statistics that are means over windows."""
    sums = {name: np.zeros(shape_of(name, units, replay.num_blocks, len(ids))) for name in names}
    opened = blocks_to_open(names, units, replay.num_blocks)
    together = _windows_together(replay, ids) if names else 1
    for rows in torch.split(ids, together) if names else ():
        for states in run_dense(replay, [row[None] for row in rows], opened):
            for name, total in sums.items():
                of_window = OF_STATES[name](states).cpu() if name in MAPS else OF_UNITS[name](replay, states, units)
                total += np.asarray(of_window)
    return {name: total / len(ids) for name, total in sums.items()}


def run_dense(replay: Replay, windows: Sequence[Tensor], opened: Sequence[int]) -> list[DenseStates]:
    """The dense pass over windows, block by block, with an attention alone for each block that is opened.

    Args:
        replay: the model, checked for sublayers if any block is opened; use under `torch.inference_mode()`.
        windows: int64 (1, tokens) each.
        opened: the blocks of which the states between attention and FFN are wanted.
    """
    found = [DenseStates(ids, [replay.embed(ids)], {}) for ids in windows]
    for block in range(replay.num_blocks):
        for states in found:
            entering = states.entering[-1]
            if block in opened:
                states.between[block] = replay.run_block(entering, block, Action.NO_FFN)
            states.entering.append(replay.run_block(entering, block, Action.KEEP))
    return found


def _windows_together(replay: Replay, ids: Tensor) -> int:
    """One, so that one window's states are held at a time; where weights are streamed as many as a gigabyte holds."""
    width = replay.model.config.get_text_config(decoder=True).hidden_size
    of_window = 2 * (replay.num_blocks + 1) * ids.shape[1] * width * replay.model.dtype.itemsize
    return max(1, STATES // of_window) if replay.streamed else 1


def _change(per_token: Callable[[Tensor, Tensor], Tensor]) -> OfUnits:
    """The mean over tokens, from a function of the states before and after, (tokens, hidden size) to (tokens,)."""
    return lambda _, states, units: [per_token(*states.around(unit)).double().mean().item() for unit in units]


def _cosine(before: Tensor, after: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(before, after, dim=-1)


def _relative(order: int) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda before, after: (after - before).norm(order, dim=-1) / before.norm(order, dim=-1)


def _logits(replay: Replay, states: DenseStates, units: Sequence[Unit]) -> list[float]:
    """E[|z - z'|_2] for each unit: its removal replayed from the dense states entering its block."""
    (dense,) = replay.head.logits(states.entering[-1], states.ids)  # (tokens, vocabulary)
    distances = []
    for unit in units:
        action = PrunePlan.of([unit]).action(unit.block)
        state = replay.run_block(states.entering[unit.block], unit.block, action)
        for block in range(unit.block + 1, replay.num_blocks):
            state = replay.run_block(state, block, Action.KEEP)
        (pruned,) = replay.head.logits(state, states.ids)
        distances.append(_distance(dense, pruned))
        del state, pruned
    return distances


def _distance(one: Tensor, other: Tensor) -> float:
    """The mean L2 norm of the differences of rows; in float32 a chunk of rows at a time."""
    rows = max(1, CHUNK // one.shape[1])
    pairs = zip(torch.split(one, rows), torch.split(other, rows), strict=True)
    return torch.cat([(a.float() - b.float()).norm(dim=-1) for a, b in pairs]).double().mean().item()


def _cosines(states: DenseStates) -> Tensor:
    """E[cos(h_i, h_j)] over the tokens of a window, in chunks of them."""
    boundaries = torch.cat(states.at_boundaries())  # (boundaries, tokens, hidden size)
    tokens = max(1, CHUNK // boundaries[:, 0].numel())
    total = torch.zeros(len(boundaries), len(boundaries), dtype=torch.float64, device=boundaries.device)
    for chunk in torch.split(boundaries, tokens, dim=1):
        directions = torch.nn.functional.normalize(chunk.float(), dim=-1).flatten(1)
        total += directions @ directions.T
    return total / boundaries.shape[1]


def _angles(states: DenseStates) -> Tensor:
    """arccos(cos(h_i, h_j)) / pi at the last token; in float64, for near 1 an arccos doubles every error."""
    last = torch.stack([state[0, -1] for state in states.at_boundaries()]).double()  # (boundaries, hidden size)
    directions = torch.nn.functional.normalize(last, dim=-1)
    return (directions @ directions.T).clamp(-1, 1).arccos() / torch.pi


def _magnitude(replay: Replay, unit: Unit) -> float:
    """The sum of |w| over the unit's weights."""
    with present(replay.architecture.blocks[unit.block]):
        weights = weights_of(replay, [unit]).values()
        return sum(weight.abs().sum(dtype=torch.float64).item() for weight in weights)


OF_UNITS: dict[str, OfUnits] = {
    "cosine": _change(_cosine),
    "relative-l1": _change(_relative(1)),
    "relative-l2": _change(_relative(2)),
    "logits": _logits,
}
OF_STATES: dict[str, OfStates] = {"state-cosines": _cosines, "state-angles": _angles}

"""How a fit goes through the model within the memory there is: planned from one window before the first step."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from searcher.architecture.devices import memory_of
from searcher.contracts.plan import Action, PrunePlan
from searcher.errors import UsageError
from searcher.healing.calibration import CalibrationSet
from searcher.healing.trainable import Trainable
from searcher.loading.free_memory import format_bytes, room_left
from searcher.replay.batching import rows_together
from searcher.replay.head import SLICE

COPIES = 5
"""Of each trained value in float32: itself, its gradient, two moments of AdamW, and what it was at the best check."""


@dataclass(frozen=True)
class Passes:
    """How windows go through the model.

    Attributes:
        rows: windows together; gradients of more are added up.
        checkpointed: whether only the states between blocks are kept for the way back. It changes no bit.
    """

    rows: int
    checkpointed: bool


@dataclass(frozen=True)
class Need:
    """Bytes of a fit besides the model.

    Attributes:
        fixed: for what is trained, its optimizer, and the head's slices.
        window: kept of a window for the way back.
        state: one hidden state of a window.
        block: the part of `window` of the largest block.
        blocks: that run.
    """

    fixed: int
    window: int
    state: int
    block: int
    blocks: int

    def of(self, passes: Passes) -> int:
        """Of a step."""
        kept = self.blocks * self.state + self.block if passes.checkpointed else self.window
        return self.fixed + passes.rows * (kept + self.block)  # and what the way back through a block allocates


def plan_passes(
    calibration: CalibrationSet, plan: PrunePlan, trainable: Trainable, batch: int, name: str, targets: int = 0
) -> tuple[Passes, int]:
    """The fastest way that fits, and the bytes that it takes.

    First as many windows as are run together anywhere; then without what can be computed again; then one by one, which
    rounds differently.

    Args:
        calibration: whose model, and what memory there is.
        plan: what is removed.
        trainable: what will be trained.
        batch: windows in a step.
        name: of the healing, for the error.
        targets: bytes of what is kept of the dense model.

    Raises:
        UsageError: not even that fits, with what is needed.
    """
    together = min(batch, rows_together(calibration.fit.shape[1], calibration.replay.model.device.type))
    need, room = measure_need(calibration, plan, trainable), calibration.room
    room = room_left(None, calibration.replay.exit) if room is None else room
    need = replace(need, fixed=need.fixed + targets)
    ways = (Passes(together, False), Passes(together, True), Passes(1, True))
    for passes in ways:
        if need.of(passes) <= room:
            return passes, need.of(passes)
    raise UsageError(
        f"Memory is not enough to heal by {name}: a step needs {format_bytes(need.of(ways[-1]))} beside the model, and "
        f"{format_bytes(max(0, room))} are left for it",
        "Raise --memory, lower --window-tokens, train less of the model (a lower rank, fewer target_modules), or heal "
        "by linear, linear-folded or bias, which do not train",
    )


def measure_need(calibration: CalibrationSet, plan: PrunePlan, trainable: Trainable) -> Need:
    """Run one window forward and add up what autograd keeps of each block."""
    replay = calibration.replay
    saved, fixed = list[int](), _fixed(trainable, calibration)
    with trainable.in_place():
        own = (*replay.model.parameters(), *replay.model.buffers(), *trainable.running())
        known = {memory_of(tensor) for tensor in own}
        hidden = replay.embed(calibration.fit[:1].clamp(min=0))
        state = hidden.nbytes
        for block, action in enumerate(plan.actions(replay.num_blocks)):
            if action is not Action.GONE:
                leaf = hidden.detach().requires_grad_()
                kept, hidden = _kept(lambda leaf=leaf, b=block, a=action: replay.run_block(leaf, b, a), known)  # type: ignore[misc]
                saved.append(kept)
    return Need(fixed, sum(saved), state, max(saved, default=0), len(saved))


def _fixed(trainable: Trainable, calibration: CalibrationSet) -> int:
    values = sum(parameter.numel() for parameter in trainable.parameters)
    tokens = rows_together(calibration.fit.shape[1], calibration.replay.model.device.type) * calibration.fit.shape[1]
    return int(values * (4 * COPIES + calibration.replay.model.dtype.itemsize) + 4 * tokens * SLICE * 4)


def _kept(run: Callable[[], Tensor], known: set[int]) -> tuple[int, Tensor]:
    """Bytes that autograd keeps of an operation, each memory once, and what it returns."""
    memories: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if (memory := memory_of(tensor)) not in known:
            memories[memory] = max(memories.get(memory, 0), tensor.nbytes)
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        result = run()
    return int(sum(memories.values())), result.detach()


def told(trainable: Trainable, calibration: CalibrationSet, passes: Passes, needed: int) -> str:
    """What a user should know of how a fit is done."""
    values = sum(parameter.numel() for parameter in trainable.parameters)
    whole = sum(parameter.numel() for parameter in calibration.replay.model.parameters())
    short = "; memory is short, so states inside blocks are computed twice" if passes.checkpointed else ""
    windows = "1 window" if passes.rows == 1 else f"{passes.rows} windows"
    return (
        f"Training {values:,} values ({values / whole:.1%} of the model's), {windows} at a time, in up to "
        f"{format_bytes(needed)} beside the model{short}"
    )

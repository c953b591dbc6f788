"""Gaps filled with one small module each, trained to give the hidden states that the removed blocks gave."""

import copy
import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from searcher.batches import in_groups
from searcher.errors import UsageError
from searcher.healing.contract import Healing
from searcher.healing.patient import PADDING, Meter, Patient
from searcher.healing.training import BACKWARD, Recipe, Task, most_rows, train
from searcher.plan import Action, Part, PrunePlan
from searcher.repair import Place, Repair, StandIn
from searcher.replay import Replay
from searcher.standins import FFN, SwiGLU

TINY = 1e-6
"""Keeps a relative error finite."""

Gap = tuple[int, int]
"""The first and the last of consecutive removed blocks."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """What enters a gap and what should leave it.

    Attributes:
        entering: (windows, tokens, hidden size) of the plan, with the gaps before this one filled.
        leaving: the same of the dense model, after the gap's last block.
        real: bool (windows, tokens), False for padding.
    """

    entering: Tensor
    leaving: Tensor
    real: Tensor

    def batches(self) -> Iterator["Pairs"]:
        """The windows in groups that are run together."""
        parts = (in_groups(tensor) for tensor in (self.entering, self.leaving, self.real))
        return (Pairs(*part) for part in zip(*parts, strict=True))


@dataclass(frozen=True)
class Replacement(Healing):
    """Fill every gap of removed blocks with one module, trained on the hidden states around the gap.

    Gaps are filled from the first to the last: what enters a gap are the states of the pruned model as it is healed so
    far, what should leave it those of the dense model. The loss is a squared error; no later block is run.

    Args:
        steps: for each gap.
        lr: the learning rate; it falls to `min_lr` along half a cosine. The paper's 2e-4 is for far more text.
        min_lr: where it ends.
        weight_decay: of AdamW.
        batch: windows in a step.
        error: plain squared errors, or relative to the squared norm of what should leave, token by token, so that a
            first token of huge norm, as most models have it, counts no more than another. On SmolLM2-135M the plain
            ones heal better (three gaps, held-out loss of `layer` 3.26 against 3.29, of `ffn` 3.45 against 3.46), and
            as well as without the first token: the residual carries it, and AdamW evens out the rest.
        patience: checks in a row without a smaller held-out error that end the fit early; 0 for never.
        seed: draws the first weights and the order of the windows.
    """

    steps: Annotated[int, Field(ge=0)] = 200
    lr: Annotated[float, Field(gt=0)] = 1e-3
    min_lr: Annotated[float, Field(ge=0)] = 5e-5
    weight_decay: Annotated[float, Field(ge=0)] = 1e-3
    batch: Annotated[int, Field(ge=1)] = 4
    error: Literal["plain", "relative"] = "plain"
    patience: Annotated[int, Field(ge=0)] = 3
    seed: Annotated[int, Field(ge=0)] = 0

    name: ClassVar[str]

    def stand_ins(self, replay: Replay, plan: PrunePlan) -> Mapping[Place, StandIn]:
        """See :class:`Healing`."""
        try:
            return {(gap[1], Action.GONE): self.blank(replay, gap) for gap in find_gaps(self.name, plan)}
        except UsageError:  # a plan that cannot be healed so stays as it is
            return {}

    @abstractmethod
    def blank(self, replay: Replay, gap: Gap) -> StandIn:
        """What will stand in a gap, without values of its own."""

    @abstractmethod
    def begin(self, replay: Replay, gap: Gap) -> StandIn:
        """What is trained for a gap, as it will stand there: in the model's dtype and on its device."""

    def price(self, replay: Replay, gap: Gap) -> float:
        """What running that costs, in blocks: by its parameters."""
        return _count(self.blank(replay, gap).module) / _count(replay.architecture.blocks[gap[0]])

    def most_work(self, patient: Patient, plan: PrunePlan) -> Meter:
        """See :class:`Healing`: the states around the gaps, of the plan and of the dense model, and the fits."""
        work, gaps, fit, held_out = Meter(), find_gaps(self.name, plan), len(patient.fit), len(patient.held_out)
        for gap in gaps:
            rows = most_rows(self._recipe(), len(gaps) * self.steps, fit, held_out)
            work.count(self.price(patient.replay, gap) * sum(rows))
        if gaps:
            before = sum(plan.action(block) is not Action.GONE for block in range(gaps[-1][0]))
            work.count((gaps[-1][1] + 1 + before) * (fit + held_out))
        return work

    def _recipe(self) -> Recipe:
        return Recipe(
            self.name, self.steps, self.batch, self.lr, self.min_lr, self.weight_decay, self.patience, self.seed
        )

    def heal(self, patient: Patient, plan: PrunePlan) -> Repair:
        """See :class:`Healing`."""
        gaps = find_gaps(self.name, plan)
        after: dict[Place, StandIn] = {}
        with torch.inference_mode(False), torch.no_grad():
            for gap, fit, held_out in walk_gaps(patient, gaps, after):
                patient.replay.embed(patient.fit[: self.batch].clamp(min=0))  # records what blocks get for this shape
                filling = Filling(patient, self.begin(patient.replay, gap), gap, fit, held_out, self.error)
                parameters = list(filling.learner.parameters())
                task = Task(
                    parameters,
                    filling.backward,
                    filling.held_out_error,
                    len(after) * self.steps,
                    len(gaps) * self.steps,
                )
                with torch.enable_grad():
                    train(patient, task, self._recipe())
                after[gap[1], Action.GONE] = filling.learnt()
        return Repair(after=after)


@dataclass(frozen=True)
class Layer(Replacement):
    """Fill every gap with one block of the model's kind, which starts as the first of the removed ones.

    When to use it: for long gaps, of which it takes the place at the price of one block.

    Source: LLM-Streamline (Chen et al. 2024, arXiv:2403.19135, equation 4); here it attends to no later token.

    Args:
        steps: see :class:`Replacement`, as the other arguments.
    """

    name: ClassVar[str] = "layer"

    def blank(self, replay: Replay, gap: Gap) -> StandIn:
        """See :class:`Replacement`."""
        return StandIn(replay.architecture.blocks[gap[0]], like=gap[0])

    def begin(self, replay: Replay, gap: Gap) -> StandIn:
        """A copy of the gap's first block, with the model's own config, where per-layer lists may be shortened."""
        block = replay.architecture.blocks[gap[0]]
        configs = [vars(module)["config"] for module in block.modules() if "config" in vars(module)]
        return StandIn(copy.deepcopy(block, {id(config): config for config in configs}), like=gap[0])


@dataclass(frozen=True)
class Ffn(Replacement):
    """Fill every gap with a feed-forward network on normed states, which adds to them; at first it adds nothing.

    When to use it: where the gap's blocks moved no information between tokens; it needs no key-value cache.

    Source: the FFN of LLM-Streamline (Chen et al. 2024, arXiv:2403.19135, equation 4), here with a residual.

    Args:
        inner: neurons; 0 for four times the hidden size.
    """

    lr: Annotated[float, Field(gt=0)] = 3e-3
    inner: Annotated[int, Field(ge=0)] = 0

    name: ClassVar[str] = "ffn"

    def blank(self, replay: Replay, gap: Gap) -> StandIn:
        """See :class:`Replacement`."""
        return StandIn(blank(FFN, self.inner or 4 * _width(replay), replay))

    def begin(self, replay: Replay, gap: Gap) -> StandIn:
        """See :class:`Replacement`."""
        return StandIn(drawn(self.blank(replay, gap).module, replay, self.seed))


@dataclass(frozen=True)
class Swiglu(Replacement):
    """The same as `ffn` with a gate, as the FFNs of today's models have it.

    When to use it: as `ffn`.

    Source: the SwiGLU of LLM-Streamline (Chen et al. 2024, arXiv:2403.19135, equation 4), here with a residual.

    Args:
        inner: neurons; 0 for 8/3 of the hidden size, which gives it as many weights as `ffn`.
    """

    lr: Annotated[float, Field(gt=0)] = 3e-3
    inner: Annotated[int, Field(ge=0)] = 0

    name: ClassVar[str] = "swiglu"

    def blank(self, replay: Replay, gap: Gap) -> StandIn:
        """See :class:`Replacement`."""
        return StandIn(blank(SwiGLU, self.inner or 8 * _width(replay) // 3, replay))

    def begin(self, replay: Replay, gap: Gap) -> StandIn:
        """See :class:`Replacement`."""
        return StandIn(drawn(self.blank(replay, gap).module, replay, self.seed))


class Filling:
    """A stand-in while it is trained, as a float32 copy.

    Args:
        patient: whose model runs it.
        stand_in: as it will stand.
        gap: in which.
        fit: states to fit on.
        held_out: states to check it on.
        error: see :class:`Replacement`.
    """

    def __init__(self, patient: Patient, stand_in: StandIn, gap: Gap, fit: Pairs, held_out: Pairs, error: str) -> None:
        self._patient, self._stand_in, self._fit, self._held_out, self._error = patient, stand_in, fit, held_out, error
        self.learner = copy.deepcopy(stand_in.module).float().requires_grad_(True)
        self._running = StandIn(self.learner if stand_in.like is None else _InFloat32(self.learner), stand_in.like)
        self._price = _count(self.learner) / _count(patient.replay.architecture.blocks[gap[0]])  # in blocks

    def backward(self, rows: Tensor) -> float:
        """Leave the gradients of these windows' mean error in the learner, and return that error."""
        rows = rows.to(self._fit.real.device)
        pairs = Pairs(self._fit.entering[rows], self._fit.leaving[rows], self._fit.real[rows])
        error = self._errors(pairs).mean()
        error.backward()  # type: ignore[no-untyped-call]
        self._patient.meter.count((1 + BACKWARD) * self._price * len(rows))
        self._patient.meter.tokens += int(pairs.real.sum())
        return error.item()

    @torch.no_grad()
    def held_out_error(self) -> float:
        """The mean error on the held-out windows."""
        errors = [self._errors(pairs) for pairs in self._held_out.batches()]
        self._patient.meter.count(self._price * len(self._held_out.real))
        return float(torch.cat(errors).double().mean())

    def learnt(self) -> StandIn:
        """The stand-in with what was learnt, in the dtypes that it has."""
        self._stand_in.module.load_state_dict(self.learner.state_dict())
        return self._stand_in

    def _errors(self, pairs: Pairs) -> Tensor:
        """float32 (real tokens,): the squared distance of what leaves from what should."""
        left = self._patient.replay.run_stand_in(pairs.entering.float(), self._running)
        wanted = pairs.leaving.float()
        errors = (left - wanted).square().mean(dim=-1)
        if self._error == "relative":
            errors = errors / wanted.square().mean(dim=-1).clamp(min=TINY)
        return errors[pairs.real]


class _InFloat32(nn.Module):
    """A block in float32, which is handed masks and positions in the model's dtype."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = tree_map(_widened, (args, kwargs))
        return self.block(*args, **kwargs)


def _widened(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


def find_gaps(name: str, plan: PrunePlan) -> list[Gap]:
    """The runs of consecutive blocks that a plan removes, ascending.

    Args:
        name: of the healing, for the error.
        plan: of whole blocks.

    Raises:
        UsageError: it removes a sublayer of a block that stays.
    """
    gaps: list[Gap] = []
    for unit in plan.removed:
        if unit.part is not Part.BLOCK:
            raise UsageError(
                f"Healing '{name}' fills gaps of whole blocks, but plan {plan} removes {unit}",
                "Heal plans that remove sublayers with lora or bias",
            )
        joins = bool(gaps) and gaps[-1][1] == unit.block - 1
        gaps.append((gaps.pop()[0] if joins else unit.block, unit.block))
    return gaps


def walk_gaps(
    patient: Patient, gaps: Sequence[Gap], after: Mapping[Place, StandIn]
) -> Iterator[tuple[Gap, Pairs, Pairs]]:
    """Every gap with the states around it, for the windows to fit on and for those held out.

    Args:
        patient: whose model and windows.
        gaps: ascending.
        after: what stands in the gaps; a gap's is looked up when the next one is asked for.
    """
    replay, texts = patient.replay, (patient.fit, patient.held_out)
    dense = [patient.dense_states(ids, [last for _, last in gaps]) for ids in texts]
    states = [[replay.embed(batch) for batch in in_groups(ids.clamp(min=0))] for ids in texts]
    block = 0
    for first, last in gaps:
        for kept in range(block, first):
            states = [[patient.run_block(hidden, kept, Action.KEEP) for hidden in batches] for batches in states]
        entering = [torch.cat(batches) for batches in states]
        fit, held_out = (
            Pairs(inside, outside[last], ids != PADDING)
            for inside, outside, ids in zip(entering, dense, texts, strict=True)
        )
        yield (first, last), fit, held_out
        stand_in, block = after[last, Action.GONE], last + 1
        states = [[replay.run_stand_in(hidden, stand_in) for hidden in batches] for batches in states]


def blank(kind: type[nn.Module], inner: int, replay: Replay) -> nn.Module:
    """A module of :mod:`searcher.standins` on the device `meta`, in the model's dtype."""
    with torch.device("meta"):  # where nothing is drawn from the generator that all threads share
        return kind(_width(replay), inner).to(replay.model.dtype)


def drawn(module: nn.Module, replay: Replay, seed: int) -> nn.Module:
    """A blank module that adds nothing yet, on the model's device; its first matrices are drawn as torch draws them."""
    module = module.float().to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        bound = 1 / math.sqrt(parameter.shape[-1])
        if name == "norm.weight":
            nn.init.ones_(parameter)
        elif name.startswith("down") or name.endswith("bias"):
            nn.init.zeros_(parameter)
        else:
            nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return module.to(replay.model.device, replay.model.dtype).requires_grad_(False)


def _width(replay: Replay) -> int:
    return int(replay.model.config.get_text_config(decoder=True).hidden_size)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())

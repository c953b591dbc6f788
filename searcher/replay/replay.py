"""Replaying a model under prune plans, block by block, with the arguments its own forward gave each block."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from searcher.architecture.blocks import find_architecture
from searcher.architecture.streamed_modules import streamed
from searcher.contracts.plan import Action, PrunePlan
from searcher.contracts.trie import Path, depth_first, last_step, plan_path, walk
from searcher.replay.block_inputs import Call, observe, record, without
from searcher.replay.head import FusedHead, OwnHead, find_fused_head
from searcher.replay.repair import Place, Repair, ReplacementModule, weights_replaced


class Replay:
    """Runs the blocks that plans keep. The model itself is never changed.

    Use it under `torch.inference_mode()`.

    Args:
        model: a transformers causal LM in eval mode.
        probe: int64 (1, tokens), any text; one dense forward over it shows what the parts of the model return.

    Attributes:
        architecture: where the model keeps its parts.
        head: from hidden states to logits and losses; `OwnHead` where the fused one does not fit the model.
        after: what hidden states also go through after a block of which a plan removes something; see :func:`repaired`.

    Raises:
        UsageError: the blocks were not found.
    """

    def __init__(self, model: Any, probe: Tensor) -> None:
        self.model = model
        self.architecture = find_architecture(model)
        self.outputs, self.probe_logits = observe(model, self.architecture, probe)
        fused = find_fused_head(model, self.architecture, probe)
        self.head: FusedHead | OwnHead = fused or OwnHead(model, self.architecture, self.outputs)
        self.after: Mapping[Place, ReplacementModule] = {}
        self._calls: dict[torch.Size, tuple[Call, ...]] = {}

    @property
    def num_blocks(self) -> int:
        """How many blocks the model has."""
        return self.architecture.num_blocks

    def use_own_head(self) -> None:
        """Take the slow exact way from now on."""
        self.head = OwnHead(self.model, self.architecture, self.outputs)

    def embed(self, ids: Tensor) -> Tensor:
        """(rows, tokens, hidden size): the hidden states entering block 0, for int64 (rows, tokens) ids.

        Also records the blocks' other arguments for inputs of this shape.
        """
        recording = record(self.model, self.architecture, self.outputs, ids)
        self._calls[ids.shape] = recording.calls
        return recording.embedded

    @property
    def streamed(self) -> bool:
        """Whether the weights of blocks are in memory only while they run."""
        return streamed(self.architecture.blocks[0])

    def knows(self, rows: int, tokens: int) -> bool:
        """Whether the blocks' other arguments have been recorded for inputs of this shape."""
        return torch.Size((rows, tokens)) in self._calls

    def run_block(self, hidden: Tensor, block: int, action: Action) -> Tensor:
        """Hidden states after a block of which the action removes a part; (rows, tokens, hidden size) to the same."""
        if action is not Action.GONE:
            hidden = self.run_block_without(hidden, block, self.architecture.removed_by(block, action))
        replacement = self.after.get((block, action))
        return hidden if replacement is None else self.run_replacement(hidden, replacement)

    def run_replacement(self, hidden: Tensor, replacement: ReplacementModule) -> Tensor:
        """Hidden states after a module that stands where something is missing."""
        if replacement.like is None:
            after: Tensor = replacement.module(hidden)
            return after
        return self._call(hidden, replacement.like).run(replacement.module, hidden)

    def run_block_without(self, hidden: Tensor, block: int, removed: list[nn.Module]) -> Tensor:
        """Hidden states after a block in which these sublayers add zero."""
        with without(self.outputs, removed):
            return self._call(hidden, block).run(self.architecture.blocks[block], hidden)

    def run_block_with(self, hidden: Tensor, block: int, weights: dict[str, Tensor]) -> Tensor:
        """Hidden states after a block that uses these weights, by name within the block, in place of its own."""
        module = self.architecture.blocks[block]
        return self._call(hidden, block).run(lambda *a, **k: functional_call(module, weights, a, k), hidden)

    def _call(self, hidden: Tensor, block: int) -> Call:
        return self._calls[hidden.shape[:2]][block]

    def states(self, ids: Tensor, plans: Sequence[PrunePlan]) -> Iterator[tuple[int, Tensor]]:
        """Replay distinct plans on int64 (rows, tokens) ids, shared prefixes once.

        One after another; where weights are streamed all together, so that each block is read once.

        Yields:
            `(index of the plan, its hidden states after the last block)`, in the order of the trie.
        """

        def step(states: list[Tensor], prefixes: list[Path]) -> list[Tensor]:
            block, action = last_step(prefixes[0])
            return [self.run_block(state, block, action) for state in states]

        paths = [plan_path(plan, self.num_blocks) for plan in plans]
        order = depth_first(paths)
        paths = [paths[index] for index in order]
        together = max(1, len(paths)) if self.streamed else 1
        begin = iter([together] * (len(paths) // together))
        for leaves in walk(paths, self.embed(ids), step, lambda: next(begin, 0), together=together):
            for position, state in zip(leaves.positions, leaves.states, strict=True):
                yield order[position], state

    def sharing_weights(self) -> "Replay":
        """Another replay for use in another thread: modules of its own, with these weights, none copied."""
        tensors = [*self.model.parameters(), *self.model.buffers(), self.probe_logits]
        return copy.deepcopy(self, {id(tensor): tensor for tensor in tensors})

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_calls": {}}  # they are recorded again where they are needed


@contextmanager
def repaired(replay: Replay, repair: Repair) -> Iterator[None]:
    """Let the replay, and the model it runs, be as the repair makes them; afterwards not one bit has changed."""
    before = replay.after
    with weights_replaced(replay.model, repair):
        try:
            replay.after = repair.after
            yield
        finally:
            replay.after = before

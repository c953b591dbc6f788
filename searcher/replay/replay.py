"""Replaying a model under prune plans, block by block, with the arguments its own forward gave each block."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from searcher.architecture.blocks import find_architecture
from searcher.architecture.devices import device_of, devices_of
from searcher.architecture.streamed_modules import streamed
from searcher.contracts.plan import Action, PrunePlan
from searcher.contracts.trie import Path, depth_first, last_step, plan_path, walk
from searcher.replay.block_inputs import Call, Mover, observe, record, without
from searcher.replay.head import FusedHead, OwnHead, find_fused_head
from searcher.replay.repair import Place, Repair, ReplacementModule, weights_replaced


class Replay:
    """Runs the blocks that plans keep. The model itself is never changed.

    A model may be spread over several devices, block by block. Then the states after a block are on the device of that
    block, whatever a plan does with it; and states after the last block, when they are handed out, where the head is.

    Use it under `torch.inference_mode()`.

    Args:
        model: a transformers causal LM in eval mode.
        probe: int64 (1, tokens), any text; one dense forward over it shows what the parts of the model return.

    Attributes:
        architecture: where the model keeps its parts.
        head: from hidden states to logits and losses; `OwnHead` where the fused one does not fit the model.
        places: the device of each block.
        devices: those that the model is on, in the order in which states come to them.
        exit: the device of the output head, where losses are.
        after: what hidden states also go through after a block of which a plan removes something; see :func:`repaired`.

    Raises:
        UsageError: the blocks were not found.
    """

    def __init__(self, model: Any, probe: Tensor) -> None:
        self.model = model
        self.architecture = find_architecture(model)
        self._find_places()
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
        recording = record(self.model, self.architecture, self.outputs, ids.to(self.model.device))
        mover = Mover()
        calls = zip(recording.calls, self.places, strict=True)
        self._calls[ids.shape] = tuple(mover.call(call, place) for call, place in calls)
        return recording.embedded.to(self.places[0])

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
        hidden = hidden if replacement is None else self.run_replacement(hidden, replacement)
        return hidden.to(self.places[block])

    def run_replacement(self, hidden: Tensor, replacement: ReplacementModule) -> Tensor:
        """Hidden states after a module that stands where something is missing."""
        device = device_of(replacement.module, hidden.device)
        hidden = hidden.to(device)
        if replacement.like is None:
            after: Tensor = replacement.module(hidden)
            return after
        call = self._call(hidden, replacement.like)
        if device != self.places[replacement.like]:  # as a copy of a block in the place of another
            call = Mover().call(call, device)
        return call.run(replacement.module, hidden)

    def run_block_without(self, hidden: Tensor, block: int, removed: list[nn.Module]) -> Tensor:
        """Hidden states after a block in which these sublayers add zero."""
        with without(self.outputs, removed):
            return self._call(hidden, block).run(self.architecture.blocks[block], hidden.to(self.places[block]))

    def run_block_with(self, hidden: Tensor, block: int, weights: dict[str, Tensor]) -> Tensor:
        """Hidden states after a block that uses these weights, by name within the block, in place of its own."""
        module = self.architecture.blocks[block]
        hidden = hidden.to(self.places[block])
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
                yield order[position], state.to(self.exit)

    def move_to(self, device: torch.device) -> None:
        """Move the model, which is on one device, and what stands after its blocks to another."""
        self.model.to(device)
        for replacement in self.after.values():
            replacement.module.to(device)
        self.probe_logits = self.probe_logits.to(device)
        self._calls = {}
        self._find_places()

    def _find_places(self) -> None:
        blocks, head = self.architecture.blocks, self.model.get_output_embeddings()
        self.places = tuple(device_of(block, self.model.device) for block in blocks)
        self.devices = devices_of([*blocks, self.model])
        self.exit = self.places[-1] if head is None else device_of(head, self.places[-1])

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

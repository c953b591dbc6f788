"""Is replaying this model right? Checked on every load, before a number is trusted.

The text is longer than any sliding window, so that a wrong mask cannot hide.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from searcher.architecture.blocks import find_architecture, forwards_replaced, path_of
from searcher.architecture.packed_weights import packed_layers
from searcher.architecture.replacement_modules import like
from searcher.architecture.streamed_modules import streamed
from searcher.contracts.plan import Action, Granularity, PrunePlan, Unit
from searcher.errors import UsageError, first_line
from searcher.loading.pretrained import LARGER
from searcher.replay.block_inputs import Call, record
from searcher.replay.head import OwnHead
from searcher.replay.replay import Replay

_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
_HALF_PRECISION = 2e-2  # bf16 and fp16: sums in another order differ in the last of 8 to 11 bits
_ACTIONS = {
    Granularity.BLOCK: (),
    Granularity.ATTENTION: (Action.NO_ATTENTION,),
    Granularity.FFN: (Action.NO_FFN,),
    Granularity.SUBLAYER: (Action.NO_ATTENTION, Action.NO_FFN),
}
_NAMES = {Action.NO_ATTENTION: "attention", Action.NO_FFN: "FFN"}


def open_replay(model: Any, granularity: Granularity) -> Replay:
    """A replay of the model that has been checked for this granularity; use under `torch.inference_mode()`.

    Checked: the arguments recorded for the blocks do not depend on the tokens; the dense replay gives the logits of
    the model's own forward, and so it does with two blocks passed over; for sublayers, skipping each one equals
    zeroing its weights, and skipping both leaves the hidden states as they were.

    Args:
        model: a transformers causal LM in eval mode, on one device, or spread over several by a device map.
        granularity: what a search will remove.

    Raises:
        UsageError: the model cannot be replayed, or not at this granularity, with the reason.
    """
    _refuse_offloaded(model)
    probe = probe_of(model)
    try:
        replay = Replay(model, probe)
        refuse_overflow(replay, probe)
        _check_recording(replay, probe)
        _check_dense(replay, probe)
        _check_blocks_gone(replay, probe)
    except (RuntimeError, TypeError, AttributeError, LookupError) as error:
        raise _refused(
            model, f"its blocks cannot be run one by one ({type(error).__name__}: {first_line(error)})"
        ) from error
    hidden = replay.embed(probe)
    for block in range(replay.num_blocks):
        for action in _ACTIONS[granularity]:
            _check_sublayer(replay, hidden, block, action, granularity)
        if granularity is Granularity.SUBLAYER:
            _check_both(replay, hidden, block)
        hidden = replay.run_block(hidden, block, Action.KEEP)
    return replay


def refuse_overflow(replay: Replay, ids: Tensor) -> None:
    """Refuse a model whose hidden states or logits on a text are not finite, although its weights are.

    Args:
        replay: of the model; use under `torch.inference_mode()`.
        ids: int64 (rows, tokens), a text.

    Raises:
        UsageError: naming where it begins, and a dtype that holds more.
    """
    ((_, hidden),) = replay.states(ids, [PrunePlan()])
    if _finite(hidden) and all(map(_finite, replay.head.logits(hidden, ids))):
        return
    hidden, place = replay.embed(ids), "its embedding"
    for block in range(replay.num_blocks):
        if not _finite(hidden):
            break
        hidden, place = replay.run_block(hidden, block, Action.KEEP), f"block {block}"
    place = "its output head" if _finite(hidden) else place
    dtype = str(hidden.dtype).removeprefix("torch.")
    larger = LARGER if hidden.dtype == torch.float16 else "--dtype float32" if hidden.dtype == torch.bfloat16 else ""
    where = f"its weights are finite, but what comes out of {place} is not"
    raise UsageError(
        f"{type(replay.model).__name__} overflows in {dtype}: {where}",
        f"Try {larger}" if larger else "Its weights are too large for any dtype: save or fetch the model again",
    )


def _finite(values: Tensor) -> bool:
    return bool(torch.isfinite(values).all())


def probe_of(model: Any) -> Tensor:
    """int64 (1, tokens): random tokens, more of them than any sliding window is long."""
    config = model.config.get_text_config(decoder=True)
    window = getattr(config, "sliding_window", None) or 0
    limit = getattr(config, "max_position_embeddings", None) or 1 << 30
    tokens = min(max(24, window + 16), limit)
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, config.vocab_size, (1, tokens), generator=generator).to(model.device)


def _refuse_offloaded(model: Any) -> None:
    architecture = find_architecture(model)
    offloaded = any(
        p.device.type == "meta" for block in architecture.blocks if not streamed(block) for p in block.parameters()
    )
    if offloaded:
        raise UsageError(
            "Some weights of the model are offloaded, and are loaded only while it runs itself",
            "Load it without offload",
        )


def _check_recording(replay: Replay, probe: Tensor) -> None:
    """Arguments that follow the tokens could follow the hidden states too, and would be wrong under a plan."""
    one, other = (
        record(replay.model, replay.architecture, replay.outputs, ids).calls for ids in (probe, probe.flip(1))
    )
    for block, (call, again) in enumerate(zip(one, other, strict=True)):
        if not _same(call, again):
            raise _refused(replay.model, f"block {block} is given more than hidden states that depends on the text")


def _same(call: Call, other: Call) -> bool:
    one, two = _tensors((call.args, call.kwargs)), _tensors((other.args, other.kwargs))
    return len(one) == len(two) and all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, tuple | list):
        return []
    return [tensor for item in value for tensor in _tensors(item)]


def _check_dense(replay: Replay, probe: Tensor) -> None:
    ((_, hidden),) = replay.states(probe, [PrunePlan()])
    if not (close(_logits(replay, hidden, probe), replay.probe_logits) and _losses_agree(replay, hidden, probe)):
        replay.use_own_head()  # a family that scales or caps its logits in a way the fused head does not know
    if not close(_logits(replay, hidden, probe), replay.probe_logits):
        raise _refused(replay.model, "replaying it does not give the logits of its own forward")


def _losses_agree(replay: Replay, hidden: Tensor, probe: Tensor) -> bool:
    plain = OwnHead(replay.model, replay.architecture, replay.outputs).losses(hidden, probe)
    return close(replay.head.losses(hidden, probe), plain)


def _check_blocks_gone(replay: Replay, probe: Tensor) -> None:
    """What blocks exchange beside the hidden states would show when the first and the middle one are passed over."""
    gone = PrunePlan.of(Unit(block) for block in (0, replay.num_blocks // 2))
    passed = {
        replay.architecture.blocks[unit.block]: lambda *args, i=unit.block, **kwargs: like(
            replay.outputs.blocks[i], args[0] if args else kwargs["hidden_states"]
        )
        for unit in gone.removed
    }
    with forwards_replaced(passed):
        logits = replay.model(input_ids=probe, use_cache=False).logits
    ((_, hidden),) = replay.states(probe, [gone])
    if not close(_logits(replay, hidden, probe), logits):
        raise _refused(replay.model, "its blocks exchange more than hidden states, so none can be removed alone")


def _check_sublayer(replay: Replay, hidden: Tensor, block: int, action: Action, granularity: Granularity) -> None:
    name = _NAMES[action]
    try:
        (sublayer,) = replay.architecture.removed_by(block, action)
    except LookupError as error:
        raise _refused(replay.model, f"block {block} has no {name} module of its own", granularity) from error
    if sublayer not in replay.outputs.sublayers:
        raise _refused(replay.model, f"block {block} does not call its {name} module", granularity)
    module = replay.architecture.blocks[block]
    inside = path_of(module, sublayer)
    skipped = replay.run_block(hidden, block, action)
    packed = packed_layers(sublayer)  # whose weights have no zeros of their own kind: what they return is zero instead
    others = ((n, p) for n, p in sublayer.named_parameters() if n.rpartition(".")[0] not in packed)
    zeroed = {f"{inside}.{n}": torch.zeros_like(p, device=replay.places[block]) for n, p in others}
    with forwards_replaced({layer: _zeros(layer) for layer in packed.values()}):
        plain = replay.run_block_with(hidden, block, zeroed)
    if not close(skipped, plain):
        raise _refused(replay.model, f"block {block} does not simply add what its {name} returns", granularity)


def _zeros(layer: Any) -> Callable[[Tensor], Tensor]:
    return lambda entering: entering.new_zeros((*entering.shape[:-1], layer.out_features))


def _check_both(replay: Replay, hidden: Tensor, block: int) -> None:
    removed = [m for a in _NAMES for m in replay.architecture.removed_by(block, a)]
    if not close(replay.run_block_without(hidden, block, removed), hidden):
        reason = f"block {block} changes the hidden states even without its attention and FFN"
        raise _refused(replay.model, reason, Granularity.SUBLAYER)


def _logits(replay: Replay, hidden: Tensor, ids: Tensor) -> Tensor:
    return torch.stack(list(replay.head.logits(hidden, ids)))


def close(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same but for sums in another order, by the dtype of the second."""
    tolerance = _TOLERANCE.get(other.dtype, _HALF_PRECISION)
    scale = float(other.abs().max()) or 1.0
    return bool(((one.to(other.device) - other).abs().max() <= tolerance * scale).item())


def _refused(model: Any, reason: str, granularity: Granularity | None = None) -> UsageError:
    if granularity is None:
        return UsageError(f"{type(model).__name__} cannot be replayed: {reason}", "Choose a model of another family")
    return UsageError(
        f"{type(model).__name__} does not support granularity '{granularity}': {reason}",
        "Use --granularity block, which needs no sublayers",
    )

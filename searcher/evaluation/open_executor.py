"""An executor for a model and text, as many threads as memory has room for."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from searcher.architecture.devices import computes_on_cpu
from searcher.contracts.cost import Prices
from searcher.contracts.objective import Objective, Split
from searcher.errors import UsageError
from searcher.evaluation.candidate import Facts
from searcher.evaluation.evaluator import Evaluator
from searcher.evaluation.executor import Executor
from searcher.evaluation.groups import Groups, make_groups
from searcher.evaluation.memory import Footprint, Room, find_room_on_all, measure_footprint
from searcher.evaluation.prefix_cache import PrefixCache
from searcher.evaluation.streamed_executor import StreamedExecutor
from searcher.evaluation.streaming_room import find_streaming_room
from searcher.healing.healer import Healer, HealingRoom
from searcher.loading.heal_text import HealText
from searcher.loading.weight_store import WeightStore
from searcher.loading.windows import check_vocabulary
from searcher.replay.dense_cache import DenseCache
from searcher.replay.footprint import measure_amounts
from searcher.replay.replay import Replay


def open_executor(
    replay: Replay,
    objectives: Mapping[str, Objective],
    windows: Mapping[Split, torch.Tensor],
    tokenizer: Any,
    prices: Prices,
    memory: int | None = None,
    cores: int | None = None,
    healing: HealText | None = None,
    final: HealText | None = None,
    dense: DenseCache | None = None,
    store: WeightStore | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Executor:
    """An executor for a model and text; use under `torch.inference_mode()`.

    Args:
        replay: the model, checked for the granularity of the run.
        objectives: by name, in the order of the run.
        windows: int64 (windows, tokens) for each split that will be measured.
        tokenizer: the model's, for objectives that bring their own inputs.
        prices: for counting parts of blocks.
        memory: bytes, see :func:`searcher.evaluation.memory.find_room`.
        cores: how many evaluators at most on a CPU; by default one for each thread that torch uses. Elsewhere there is
            one for each device that the model is on.
        healing: with what and on what plans are healed before they are measured.
        final: the same for the splits of healed plans, if that is another healing.
        dense: keeps what is computed on the dense model.
        store: where weights come from, if the model is streamed.
        say: told how memory is shared out while weights are streamed.

    Raises:
        UsageError: the memory is not enough, or an objective brings no inputs.
    """
    groups = make_groups(windows, objectives, tokenizer, replay.model.device.type)
    for group in (group for split in groups.values() for group in split):
        check_vocabulary(group.ids, replay.model, tokenizer)
    window_tokens = next(iter(windows.values())).shape[1]
    facts = Facts(tokenizer, measure_amounts(replay, window_tokens), dense)
    cores = cores or torch.get_num_threads()
    return executor_for(
        replay, objectives, groups, prices, window_tokens, facts, memory, cores, healing, final, store, say
    )


def executor_for(
    replay: Replay,
    objectives: Mapping[str, Objective],
    groups: Groups,
    prices: Prices,
    window_tokens: int,
    facts: Facts,
    memory: int | None,
    cores: int,
    healing: HealText | None = None,
    final: HealText | None = None,
    store: WeightStore | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Executor:
    """The same for token sequences that are grouped already; see :func:`open_executor`."""
    largest = max(group.ids.numel() for split in groups.values() for group in split)
    footprint = measure_footprint(replay, window_tokens, max(window_tokens, largest))
    cores = cores if all(map(computes_on_cpu, replay.devices)) else len(replay.devices)
    healer = None if healing is None else Healer(healing, replay, prices)
    last = None if final is None else Healer(final, replay, prices)
    make = partial(Evaluator, replay, objectives, prices, window_tokens, facts=facts)
    if store is not None:
        ask = _largest_ask(replay, groups, footprint, largest)
        streaming = find_streaming_room(footprint, memory, replay.model.device, cores, store, ask)
        say(str(streaming))
        for_gaps = streaming.states // 2 if healer and healer.scope == "gap" else 0
        healer = healer and healer.within(HealingRoom(for_gaps // streaming.evaluators))
        evaluator = make(kept=PrefixCache(0), healer=healer, final=last)
        return StreamedExecutor(evaluator, groups, store, replace(streaming, states=streaming.states - for_gaps), say)
    room = find_room_on_all(footprint, memory, (*replay.places, replay.exit), cores)
    room, for_fit = leave_room(room, last or healer)
    for_gaps = room.kept // 2 if healer and healer.scope == "gap" else 0
    healer = healer and healer.within(HealingRoom(for_gaps // room.evaluators, for_fit))
    last = last and last.within(HealingRoom(0, for_fit))
    kept = PrefixCache(room.kept - for_gaps)
    return Executor(make(kept=kept, healer=healer, final=last), groups, kept, room.evaluators)


def leave_room(room: Room, healer: Healer | None) -> tuple[Room, int | None]:
    """The room without what every evaluator needs to heal a plan by training, and that; fewer evaluators if need be.

    Raises:
        UsageError: there is not enough for one.
    """
    if healer is None or healer.scope != "plan":
        return room, None
    for evaluators in range(room.evaluators, 0, -1):
        try:
            needed = healer.memory(room.kept // evaluators)
            return Room(evaluators, room.kept - evaluators * needed), needed or None
        except UsageError:
            if evaluators == 1:
                raise
    raise AssertionError("there is at least one evaluator")


def _largest_ask(replay: Replay, groups: Groups, footprint: Footprint, largest: int) -> int:
    """Bytes of the states of a first round of greedy over sublayers on the search windows."""
    tokens = sum(group.ids.numel() for group in groups.get("search", ()))
    return math.ceil(2 * replay.num_blocks * tokens * footprint.state / largest)

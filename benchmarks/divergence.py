"""Divergence from the dense model, ours against the usual ways; and how exact it is."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from benchmarks.common import Opened, open_model, report, side_by_side
from benchmarks.evaluator import removals
from benchmarks.setting import Setting, command, start
from benchmarks.steps import Steps
from searcher.contracts.plan import PrunePlan, Unit
from searcher.evaluation.evaluator import Evaluator
from searcher.replay.token_divergence import refer

DEFAULTS = Setting()
Kind = Literal["kl", "js"]
KINDS: tuple[Kind, ...] = ("kl", "js")
Way = Callable[[Evaluator], object]


def plans(blocks: int) -> list[PrunePlan]:
    """From none to a quarter of the blocks removed, evenly spread; and one that the model can least do without."""
    sizes = (0, 1, max(1, blocks // 10), max(2, removals(blocks)))
    spread = [PrunePlan.of(Unit((i + 1) * blocks // (size + 1)) for i in range(size)) for size in sizes]
    return list(dict.fromkeys([*spread, PrunePlan.parse("1")]))


def errors(opened: Opened) -> Iterator[dict[str, Any]]:
    """Of KL, for several plans."""
    head, ids, asked = opened.replay.head, opened.ids.to(opened.loaded.device), plans(opened.replay.num_blocks)
    states = dict(opened.replay.states(ids, asked))
    reference = refer("kl", head, states[0], ids)
    dense = [logits.clone() for logits in head.logits(states[0], ids)]
    for i, plan in enumerate(asked):
        hidden = states[i]
        found = reference.divergence(head, hidden, ids, partial(head.losses, hidden, ids))
        full = torch.stack([_full(p, q) for p, q in zip(dense, head.logits(hidden, ids), strict=True)])
        error = (found - full).double()
        yield {
            "plan": str(plan),
            "KL": full.mean().item(),
            "token error (rms)": error.square().mean().sqrt().item(),
            "largest window error": error.mean(dim=1).abs().max().item(),
            "mean error": error.mean().item(),
            "smallest token": found.min().item(),
        }


def _full(dense: Tensor, logits: Tensor) -> Tensor:
    log_p, log_q = dense[:-1].float().log_softmax(dim=-1), logits[:-1].float().log_softmax(dim=-1)
    return nn.functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=-1)


def ways_of(opened: Opened, ids: Tensor) -> dict[str, Way]:
    """Every way to a divergence, on these windows; the losses first."""
    head = opened.replay.head
    with torch.inference_mode():
        states = dict(opened.replay.states(ids, plans(opened.replay.num_blocks)[::2]))
        dense, hidden = states[0], states[1]
        references = {kind: refer(kind, head, dense, ids) for kind in KINDS}
        losses, kept = head.losses(hidden, ids), [logits.clone() for logits in head.logits(dense, ids)]

    def besides(kind: Kind) -> Way:
        return lambda e: references[kind].divergence(e.replay.head, hidden, ids, lambda: losses)

    def with_losses(kind: Kind) -> Way:
        return lambda e: references[kind].divergence(
            e.replay.head, hidden, ids, lambda: e.replay.head.losses(hidden, ids)
        )

    def usual(dense_logits: Callable[[Evaluator], Any]) -> Way:
        return lambda e: [_full(p, q) for p, q in zip(dense_logits(e), e.replay.head.logits(hidden, ids), strict=True)]

    return {
        "losses alone": lambda e: e.replay.head.losses(hidden, ids),
        "KL besides the losses": besides("kl"),
        "KL with the losses": with_losses("kl"),
        "JS with the losses": with_losses("js"),
        "usual KL, dense logits kept": usual(lambda _: kept),
        "usual KL, dense logits again": usual(lambda e: e.replay.head.logits(dense, ids)),
        "remembering the dense model, once (KL)": lambda e: refer("kl", e.replay.head, dense, ids),
    }


def speed(evaluators: Sequence[Evaluator], ids: Tensor, ways: dict[str, Way], steps: Steps) -> list[dict[str, Any]]:
    """Each core with its share of the windows, as in a search."""
    rows: list[dict[str, Any]] = []
    for name, way in ways.items():
        steps.at(name)
        seconds = min(side_by_side(evaluators, way, 4) for _ in range(3))
        rows.append({"way": name, "us per token": seconds / ids.numel() / len(evaluators) * 1e6})
        steps.done()
    for row in rows:
        row["to the losses"] = row["us per token"] / rows[0]["us per token"]
    return rows


def main(setting: Setting) -> None:
    """How long KL and JS take, against the usual ways, at the model's own shapes; and how exact KL is.

    The usual ways take `log_softmax` of full float32 logits of the plan and of the dense model, whose logits they
    either keep or compute again for each plan. That is also what ours is compared with, for several plans.

    Takes 1 minute on 2 cores with AMX.
    """
    with Steps("divergence") as steps:
        opened = open_model(setting)
        with torch.inference_mode():
            exactness = list(errors(opened))
        evaluators, ids = opened.at_work()
        ways = ways_of(opened, ids)
        steps.expect(len(ways))
        rows = speed(evaluators, ids, ways, steps)
    title = f"KL of the windows against full logits: {opened.described}"
    report(setting, f"divergence-errors-{opened.kind}", title, exactness)
    title = f"KL and JS: {opened.described}, {len(evaluators)} x {ids.numel()} tokens at a time"
    report(setting, f"divergence-{opened.kind}", title, rows)


cli = command(main, DEFAULTS)

if __name__ == "__main__":
    start(cli)

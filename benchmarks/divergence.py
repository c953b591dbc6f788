"""Divergence from the dense model, ours against the usual ways, at the model's own shapes; and how exact it is.

    python -m benchmarks.divergence --dtype bfloat16

The usual ways take `log_softmax` of full float32 logits of the plan and of the dense model, whose logits they either
keep or compute again for each plan. That is also what ours is compared with, for several plans.
"""

from collections.abc import Callable, Iterator
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from benchmarks.common import Opened, open_model, report, side_by_side
from searcher.divergence import refer
from searcher.evaluator import Evaluator
from searcher.plan import Granularity, PrunePlan

PLANS = ("dense", "14", "4,12,18", "4,12-15,17-18,22", "1")


def main(
    dtype: Annotated[str, typer.Option(help="bfloat16 or float32")] = "auto", windows: int = 8, device: str = "auto"
) -> None:
    """Print the tables and write them."""
    opened = open_model(dtype, windows, 128, Granularity.BLOCK, device=device)
    kind, place = str(opened.loaded.dtype).removeprefix("torch."), opened.loaded.device.type
    with torch.inference_mode():
        errors = list(_errors(opened))
    report(f"divergence-errors-{place}-{kind}", f"KL in {kind}, of the windows, against full logits", errors)
    rows = _speed(opened)
    title = f"KL and JS: {opened.loaded.name}, {kind}, {windows} x 128 tokens"
    report(f"divergence-{place}-{kind}", title, rows)


def _errors(opened: Opened) -> Iterator[dict[str, Any]]:
    head, ids = opened.replay.head, opened.ids.to(opened.loaded.device)
    states = dict(opened.replay.states(ids, [PrunePlan.parse(plan) for plan in PLANS]))
    reference = refer("kl", head, states[0], ids)
    dense = [logits.clone() for logits in head.logits(states[0], ids)]
    for i, plan in enumerate(PLANS):
        hidden = states[i]
        found = reference.divergence(head, hidden, ids, lambda hidden=hidden: head.losses(hidden, ids))  # type: ignore[misc]
        full = torch.stack([_full(p, q) for p, q in zip(dense, head.logits(hidden, ids), strict=True)])
        error = (found - full).double()
        yield {
            "plan": plan,
            "KL": full.mean().item(),
            "token error (rms)": error.square().mean().sqrt().item(),
            "largest window error": error.mean(dim=1).abs().max().item(),
            "mean error": error.mean().item(),
            "smallest token": found.min().item(),
        }


def _full(dense: Tensor, logits: Tensor) -> Tensor:
    log_p, log_q = dense[:-1].float().log_softmax(dim=-1), logits[:-1].float().log_softmax(dim=-1)
    return nn.functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=-1)


def _speed(opened: Opened) -> list[dict[str, Any]]:
    """Each core with its share of the windows, as in a search."""
    crew = opened.warm_crew()
    evaluators = crew._evaluators
    ids = opened.ids[: max(1, len(opened.ids) // len(evaluators))].to(opened.loaded.device)
    with torch.inference_mode():
        states = dict(opened.replay.states(ids, [PrunePlan(), PrunePlan.parse("4,12,18")]))
        dense, hidden = states[0], states[1]
        head = opened.replay.head
        references = {kind: refer(kind, head, dense, ids) for kind in ("kl", "js")}  # type: ignore[arg-type]
        losses, kept = head.losses(hidden, ids), [logits.clone() for logits in head.logits(dense, ids)]

    def besides(kind: str) -> Callable[[Evaluator], object]:
        return lambda e: references[kind].divergence(e.replay.head, hidden, ids, lambda: losses)

    def with_losses(kind: str) -> Callable[[Evaluator], object]:
        return lambda e: references[kind].divergence(
            e.replay.head, hidden, ids, lambda: e.replay.head.losses(hidden, ids)
        )

    def usual(dense_logits: Callable[[Evaluator], Any]) -> Callable[[Evaluator], object]:
        return lambda e: [_full(p, q) for p, q in zip(dense_logits(e), e.replay.head.logits(hidden, ids), strict=True)]

    ways: dict[str, Callable[[Evaluator], object]] = {
        "losses alone": lambda e: e.replay.head.losses(hidden, ids),
        "KL besides the losses": besides("kl"),
        "KL with the losses": with_losses("kl"),
        "JS with the losses": with_losses("js"),
        "usual KL, dense logits kept": usual(lambda _: kept),
        "usual KL, dense logits again": usual(lambda e: e.replay.head.logits(dense, ids)),
        "remembering the dense model, once (KL)": lambda e: refer("kl", e.replay.head, dense, ids),
    }
    rows: list[dict[str, Any]] = []
    for name, way in ways.items():
        seconds = min(side_by_side(evaluators, way, 4) for _ in range(3))
        rows.append({"way": name, "us per token": seconds / ids.numel() / len(evaluators) * 1e6})
    for row in rows:
        row["to the losses"] = row["us per token"] / rows[0]["us per token"]
    return rows


if __name__ == "__main__":
    typer.run(main)

"""A step of training at the output head: loss and gradient in every way, with the memory that each takes."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common import Opened, open_model, report, side_by_side, synchronize
from benchmarks.head import fused
from benchmarks.setting import Setting, command, start
from benchmarks.steps import Steps
from searcher.contracts.plan import Part, PrunePlan, Unit
from searcher.evaluation.evaluator import Evaluator
from searcher.evaluation.executor import one_core
from searcher.evaluation.memory import Allocations
from searcher.healing.end_to_end import EndToEnd
from searcher.healing.healer import make_calibration, make_healing
from searcher.healing.staged import Staged
from searcher.healing.training_room import Passes
from searcher.loading.heal_text import HealText
from searcher.replay.head_gradients import HeadLoss, head_gradient, soft_targets
from searcher.replay.repair import Repair

DEFAULTS = Setting()


def by_full_logits(weight: Tensor, states: Tensor, targets: Tensor, dense: Tensor | None) -> Tensor:
    """The usual way: autograd through float32 logits of all tokens, of both models where there is a dense one."""
    with torch.inference_mode(False), torch.enable_grad():
        leaf = states.clone().requires_grad_()
        logits = nn.functional.linear(leaf, weight).float()
        if dense is None:
            loss = nn.functional.cross_entropy(logits, targets)
        else:
            with torch.no_grad():
                wanted = nn.functional.linear(dense.clone(), weight).float().log_softmax(dim=-1)
            loss = nn.functional.kl_div(logits.log_softmax(dim=-1), wanted, reduction="batchmean", log_target=True)
        return torch.autograd.grad(loss, leaf)[0]


HEALINGS = ("lora:loss=text", "lora:loss=kl", "lora:loss=hidden", "lora:loss=kl+text", "full:loss=text", "full:loss=kl")
"""Of which whole steps are timed."""
TIMED = 3
"""Steps of each; the fastest counts."""


def time_step(opened: Opened, ids: Tensor, spec: str) -> float:
    """Seconds of a step of a healing, a quarter of the blocks removed, on one thread as in a search."""
    plan = PrunePlan.of(Unit(block, Part.BLOCK) for block in range(2, opened.replay.num_blocks - 1, 4))
    text = HealText(spec, ids.cpu(), ids[:1].cpu())
    calibration, healing = make_calibration(text, opened.replay, opened.prices), make_healing(spec)
    assert isinstance(healing, Staged), "it trains the model as a whole"
    rows, seconds = torch.arange(len(ids)), []
    with torch.inference_mode(False), torch.enable_grad(), one_core():
        (stage,) = healing.stages(plan, opened.replay.num_blocks)
        trained = healing.trainable(calibration, plan, stage, Repair())
        student = EndToEnd(calibration, plan, trained, healing.minimised(), Passes(len(ids), checkpointed=False))
        for _ in range(1 + TIMED):
            started = time.perf_counter()
            student.backward(rows)
            synchronize()
            seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def main(setting: Setting) -> None:
    """How long the output head takes in a step of training, and its largest tensor: full logits against slices.

    By the next-token loss, and by the divergence from the dense model, whose targets are computed once for a window and
    kept. States are those of the dense model with noise.

    Then whole steps of healings that train, by each loss, with the same windows.

    Takes two minutes on 2 cores with AMX.
    """
    with Steps("distilling") as steps:
        opened = open_model(setting)
        evaluators, ids = opened.at_work()
        head = fused(evaluators[0])
        weight = opened.loaded.model.get_output_embeddings().weight
        with torch.inference_mode(False), torch.no_grad():
            ids = ids.clone()
            dense = opened.replay.embed(ids)
            for block in range(opened.replay.num_blocks):
                dense = opened.replay.run_block(dense, block, 0)  # type: ignore[arg-type]
            noise = torch.randn(dense.shape, generator=torch.Generator().manual_seed(0)).to(dense)
            hidden = dense + 0.3 * dense.std() * noise
            soft = soft_targets(head, dense, 1.0)
            flat, flat_dense = head.scored_states(hidden), head.scored_states(dense)
        targets = ids[:, 1:].flatten()

        def sliced(loss: HeadLoss) -> Callable[[Evaluator], object]:
            def run(_: Evaluator) -> object:
                with torch.inference_mode(False):
                    return head_gradient(head, hidden, ids, loss, soft)

            return run

        ways: dict[str, Callable[[Evaluator], object]] = {
            "next-token loss, full logits": lambda _: by_full_logits(weight, flat, targets, None),
            "next-token loss, slices": sliced(HeadLoss()),
            "divergence, full logits": lambda _: by_full_logits(weight, flat, targets, flat_dense),
            "divergence, slices": sliced(HeadLoss(0.0, 1.0)),
            "both, slices": sliced(HeadLoss(1.0, 1.0)),
            "targets of the dense model, once for a window": lambda _: soft_targets(head, dense, 1.0),
        }
        steps.expect(len(ways) + len(HEALINGS))
        rows: list[dict[str, Any]] = []
        for name, way in ways.items():
            steps.at(name)
            seconds = min(side_by_side(evaluators, way, 3) for _ in range(3))
            with torch.inference_mode(), Allocations() as allocations:
                way(evaluators[0])
            row = {"way": name, "us per token": seconds / ids.numel() / len(evaluators) * 1e6}
            rows.append({**row, "largest tensor, MiB": allocations.largest / 2**20})
            steps.done()
        whole: dict[str, float] = {}
        for spec in HEALINGS:
            steps.at(spec)
            whole[f"seconds of a step of {spec}"] = time_step(opened, ids, spec)
            steps.done()
    for row in rows:
        row["to the first"] = row["us per token"] / rows[0]["us per token"]
    title = f"A step at the head: {opened.described}, {len(evaluators)} x {ids.numel()} tokens at a time"
    report(setting, f"distilling-{opened.kind}", title, rows, **whole)


cli = command(main, DEFAULTS)

if __name__ == "__main__":
    start(cli)

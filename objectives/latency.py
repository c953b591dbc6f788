"""How long the pruned model takes, against the dense model in the same process."""

import math
import threading
import time
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from searcher.contracts.objective import Candidate, Objective, Reads, Split

_ALONE = threading.Lock()
"""Two plans timed at once would slow each other down."""


class Latency(Objective):
    """Time of the pruned model divided by that of the dense one, in prefill or for each decoded token.

    Both are timed in turn, on the same prompt, so that what else the machine does hits both; each round gives the ratio
    of the medians of its repeats, the value is the mean over rounds. On a busy machine it is noisy, and a search that
    depends on it is not repeatable. The tokens that go through both models for it are charged like those of the text.

    Args:
        phase: `prefill` (the prompt at once) or `decode` (tokens one by one, with the cache).
        tokens: length of the prompt.
        new_tokens: how many tokens are decoded after it.
        rounds: how many ratios are taken.
        repeats: timings of each model in a round.
    """

    unit = "of dense"
    within = (0.0, math.inf)
    reads: ClassVar[Reads] = "plan"
    says_size = True
    repeatable = False

    def __init__(
        self,
        phase: Literal["prefill", "decode"] = "decode",
        tokens: Annotated[int, Field(ge=1)] = 128,
        new_tokens: Annotated[int, Field(ge=1)] = 16,
        rounds: Annotated[int, Field(ge=1)] = 5,
        repeats: Annotated[int, Field(ge=1)] = 3,
    ) -> None:
        self.phase, self.tokens, self.new_tokens = phase, tokens, new_tokens
        self.rounds, self.repeats = rounds, repeats
        self._dense: Candidate | None = None

    def numbers(self, split: Split) -> int:
        """One for each round."""
        return self.rounds

    def prepare(self, dense: Candidate) -> None:
        """Remember the dense model: it is timed again beside every plan."""
        self._dense = dense

    def measure(self, candidate: Candidate) -> NDArray[np.float64]:
        """The ratio of each round."""
        assert self._dense is not None
        with _ALONE:
            for each in (self._dense, candidate):
                self._seconds(each)  # the first time is always slow
            ratios = np.array([self._round(self._dense, candidate) for _ in range(self.rounds)])
        # the dense model is timed too, since what that takes is what plans are charged; its ratio is 1 by definition
        return ratios if candidate.plan.removed else np.ones(self.rounds)

    def _round(self, dense: Candidate, candidate: Candidate) -> float:
        pairs = [(self._seconds(dense), self._seconds(candidate)) for _ in range(self.repeats)]
        whole, pruned = np.median(pairs, axis=0)
        return float(pruned / whole)

    def _seconds(self, candidate: Candidate) -> float:
        with candidate.model() as model:
            prompt = torch.zeros((1, self.tokens), dtype=torch.int64, device=model.device)
            started = _now(model)
            answer = model(input_ids=prompt, use_cache=self.phase == "decode", logits_to_keep=1)
            if self.phase == "prefill":
                return _now(model) - started
            started = _now(model)
            for _ in range(self.new_tokens):
                answer = model(input_ids=prompt[:, :1], past_key_values=answer.past_key_values, use_cache=True)
            return (_now(model) - started) / self.new_tokens


def _now(model: Any) -> float:
    for device in {parameter.device for parameter in model.parameters()}:
        if device.type != "cpu":  # which never lags behind
            torch.accelerator.synchronize(device)
    return time.perf_counter()

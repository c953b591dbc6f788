"""How much of a task is done, in work and not in plans: what progress and the time that is left are told by."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from searcher.commands.prepared import Prepared
from searcher.contracts.cost import Cost, Prices
from searcher.contracts.forecast import Forecast
from searcher.contracts.objective import Split
from searcher.contracts.plan import PrunePlan
from searcher.contracts.trie import layer_forwards, plan_path
from searcher.evaluation.groups import Groups
from searcher.evaluation.job import Job, make_jobs
from searcher.runs.measurement import Measurement, Measurements
from searcher.search.loop import SearchLoop

_Key = tuple[Split, PrunePlan, str]
"""A plan on a group of a split."""


class Task(Protocol):
    """Work that is being done, in whatever unit."""

    @property
    def done(self) -> float:
        """So far; never falls by much."""

    @property
    def total(self) -> float | None:
        """As far as it can be told; None if it cannot."""

    @property
    def amount(self) -> str:
        """The same in words, where its unit means something to a user."""

    def finished(self, line: Measurement) -> None:
        """A measurement is there."""

    def fitted(self, plan: PrunePlan, share: float) -> None:
        """A healing of this plan has come so far."""


@dataclass(frozen=True)
class Scale:
    """What work is counted by.

    Attributes:
        num_blocks: of the model.
        prices: of its parts.
        window_tokens: tokens of a window.
    """

    num_blocks: int
    prices: Prices
    window_tokens: int

    @classmethod
    def of_model(cls, prepared: Prepared) -> "Scale":
        """That of a model and text."""
        return cls(prepared.model.num_blocks, prepared.prices, prepared.resolved["window_tokens"])

    def of(self, line: Measurement) -> float:
        """What a measurement has run, in layer-forwards over a token."""
        return (line.layer_forwards + line.heads * self.prices.head) * self.window_tokens


@dataclass
class Plans:
    """Plans to be measured: each on each group weighs what replaying it there takes, and a head.

    What cannot be known before, other heads or what an objective runs by itself, is learnt from what has been measured:
    of each kind of group, what was run in proportion to what was expected.
    """

    scale: Scale
    _left: dict[_Key, float] = field(default_factory=dict)
    _met: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    _run: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    _fits: dict[PrunePlan, float] = field(default_factory=dict)
    amount = ""

    @classmethod
    def ahead(
        cls,
        scale: Scale,
        groups: Groups,
        split: Split,
        plans: Sequence[PrunePlan],
        known: Measurements,
        windows: Collection[int] | None = None,
    ) -> "Plans":
        """What is left to measure of these plans."""
        found = cls(scale)
        for job in make_jobs(split, groups[split], tuple(dict.fromkeys(plans)), known, windows, scale.num_blocks):
            found._left |= _weights(scale, job)
        return found

    @property
    def plans(self) -> int:
        """How many plans are not finished."""
        return len({plan for _, plan, _ in self._left})

    @property
    def done(self) -> float:
        """See :class:`Task`."""
        begun = sum(self._fits.get(key[1], 0.0) * self._expected(key) for key in self._left)
        return sum(self._run.values()) + begun

    @property
    def total(self) -> float:
        """See :class:`Task`."""
        return sum(self._run.values()) + sum(map(self._expected, self._left))

    def finished(self, line: Measurement) -> None:
        """See :class:`Task`."""
        key = (line.split, line.plan, line.group)
        if key in self._left:
            self._met[_kind(line.group)] += self._left.pop(key)
            self._run[_kind(line.group)] += self.scale.of(line)

    def fitted(self, plan: PrunePlan, share: float) -> None:
        """See :class:`Task`."""
        self._fits[plan] = share

    def _expected(self, key: _Key) -> float:
        kind = _kind(key[2])
        return self._left[key] * (self._run[kind] / self._met[kind] if self._met[kind] else 1.0)


def _weights(scale: Scale, job: Job) -> Mapping[_Key, float]:
    """What each plan of a job adds to those before it, in layer-forwards over a token."""
    tokens = job.group.ids[:1].numel() * len(job.group.rows(job.rows)) or scale.window_tokens
    paths = [plan_path(plan, scale.num_blocks) for plan in job.plans]
    weights: dict[_Key, float] = {}
    for plan, path, before in zip(job.plans, paths, [None, *paths], strict=False):
        together, alone = ([before, path], [before]) if before else ([path], [])
        added = layer_forwards(together, scale.prices.weight) - layer_forwards(alone, scale.prices.weight)
        weights[job.split, plan, job.group.layout.name] = (added + scale.prices.head) * tokens
    return weights


def _kind(group: str) -> str:
    return group.partition(":")[0] if not group.startswith("plan:") else group


@dataclass
class Search:
    """A search: what it has been charged, and beyond that what was run since it asked, of what was forecast."""

    loop: SearchLoop
    expected: Forecast
    _since: float = 0.0
    _charged: float = -1.0
    _most: float = 0.0

    @property
    def amount(self) -> str:
        """See :class:`Task`."""
        return f"cost {self.done:,.0f}" + (f" of about {self.total:,.0f}" if self.total else "")

    @property
    def done(self) -> float:
        """See :class:`Task`; in layer-forward equivalents per 1,000 tokens."""
        self._look()
        return self._most

    def _look(self) -> None:
        charged = self.loop.ledger.tariff.total(self.loop.ledger.charged)
        if charged != self._charged:  # what was run before has been charged by now
            self._charged, self._since = charged, 0.0
        self._most = max(self._most, charged + self._since)

    @property
    def total(self) -> float | None:
        """See :class:`Task`: the forecast, unless it was wrong; then the limit."""
        ledger = self.loop.ledger
        forecast = ledger.tariff.total(self.expected.cost)
        if self.expected.complete and self.done <= forecast * (1 + 1e-6):
            return forecast
        return ledger.limits.max_cost

    def finished(self, line: Measurement) -> None:
        """See :class:`Task`."""
        self._look()
        tariff = self.loop.ledger.tariff
        self._since += tariff.total(Cost(layer_forwards=line.layer_forwards, heads=line.heads))

    def fitted(self, plan: PrunePlan, share: float) -> None:
        """See :class:`Task`; a search does not fit plans as a whole."""


@dataclass
class Shares:
    """Something that tells itself how far it is, or a single fit."""

    done: float = 0.0
    total: float | None = 1.0
    amount: str = ""

    def finished(self, line: Measurement) -> None:
        """See :class:`Task`; it is not measured by lines."""

    def fitted(self, plan: PrunePlan, share: float) -> None:
        """See :class:`Task`."""
        self.done = share

"""All measurements of a tier, in an order in which each builds on those before."""

from collections.abc import Callable
from dataclasses import dataclass

from study.certificates import certify, count_certificates
from study.judging import (
    TEXTS,
    heal,
    judge,
    other_searches,
    plans_to_heal,
    search_other_texts,
    take_from_runs,
    to_judge,
)
from study.records import Certificate
from study.rows import Rows
from study.searches import Search, count_searches, search_prose
from study.setting import Setting

Say = Callable[[str], None]


@dataclass(frozen=True)
class Findings:
    """What the study has measured.

    Attributes:
        searches: all searches, those on other texts last.
        certificates: what was measured whole.
        rows: the numbers of plans on unseen text.
        documents: by text, the document that each of its report windows was cut from.
    """

    searches: tuple[Search, ...]
    certificates: tuple[Certificate, ...]
    rows: Rows
    documents: dict[str, tuple[int, ...]]


def count_steps(setting: Setting) -> int:
    """How many steps :func:`measure` takes at most; strategies that choose the same plan make the healings fewer."""
    tier = setting.tier
    methods = 1 + len(tier.strategies)
    searches = count_searches(setting) + len(other_searches(tier)) * methods
    judgements = len(TEXTS) + 1
    return searches + count_certificates(setting) + judgements + len(tier.healed) * len(tier.healed_seeds) * methods


def measure(setting: Setting, step: Say) -> Findings:
    """Measure what is not known yet; `step` is told of each search, certificate, text and healing that is done."""
    searches, certificates = [], []
    for search in search_prose(setting):
        searches.append(search)
        step(f"{search.run.folder.name}: {search.run.best.plan}")
    for certificate in certify(setting):
        certificates.append(certificate)
        step(f"{certificate.space}, data seed {certificate.data_seed}: {certificate.optimum}")
    for search in search_other_texts(setting):
        searches.append(search)
        step(f"{search.run.folder.name}: {search.run.best.plan}")
    rows = Rows.open(setting.folder / "rows.json")
    take_from_runs(searches, rows)
    for text, objective, plans in to_judge(setting, searches):
        judge(setting, text, objective, plans, rows)
        step(f"{objective} of {len(plans)} plans on {text}")
    for plan in plans_to_heal(setting, searches):
        heal(setting, plan, rows)
        step(f"{plan} healed by {setting.tier.healing}")
    documents = {one.text: tuple(one.run.record["documents"]["report"]) for one in searches if one.text != "choices"}
    return Findings(tuple(searches), tuple(certificates), rows, documents)

"""A comparison as plain JSON values, for programs."""

from typing import Any

from results.compared_runs import ComparedRuns
from results.finished_run import FinishedRun
from results.joint_front import JointFront
from results.methods import MethodGap
from results.side_by_side import Entry, SizeComparison
from searcher.runs.measurement import to_plain_json


def comparison_document(comparison: ComparedRuns) -> dict[str, Any]:
    """The JSON document of `searcher compare --format json`."""
    sections = [
        {
            "granularity": str(section.granularity),
            "reference": str(section.reference.folder),
            "sizes": list(map(_size_json, section.sizes)),
        }
        for section in comparison.sections
    ]
    front = comparison.front()
    content = {
        "objective": comparison.objective,
        "runs": [_run_json(run, comparison.labels[run.folder]) for run in comparison.runs],
        "sections": sections,
        "methods": list(map(_method_json, comparison.methods)),
        "front": None if front is None else _front_json(front),
        "notes": list(comparison.notes),
    }
    plain: dict[str, Any] = to_plain_json(content)
    return plain


def _size_json(size: SizeComparison) -> dict[str, Any]:
    return {
        "size": size.size,
        "verdict": size.verdict,
        "optimum": size.optimum
        and {
            "plan": str(size.optimum.plan),
            "plans": size.optimum.plans,
            "whole": size.optimum.whole,
            "search_gap": size.optimum.gap.value,
            "within_rounding": size.optimum.rounded,
        },
        "entries": list(map(_entry_json, size.entries)),
    }


def _entry_json(entry: Entry) -> dict[str, Any]:
    report = entry.report_gap
    return {
        "run": str(entry.run.folder),
        "same": entry.same,
        **entry.evaluation.to_json(),
        "search_gap": entry.search_gap and entry.search_gap.value,
        "within_rounding": entry.rounded,
        "report_gap": {"value": report.value, "low": report.low, "high": report.high, "p": report.p},
        "relative": report.relative,
        "kept": list(map(str, entry.kept)),
        "removed": list(map(str, entry.removed)),
    }


def _method_json(found: MethodGap) -> dict[str, Any]:
    return {
        "granularity": str(found.granularity),
        "size": found.size,
        "method": found.method,
        "reference": found.reference,
        "data_seeds": list(found.data_seeds),
        "report_gap": {"value": found.gap.value, "low": found.gap.low, "high": found.gap.high},
        "relative": found.gap.relative,
    }


def _run_json(run: FinishedRun, label: str) -> dict[str, Any]:
    config, cost = run.config, run.outcome["cost"]
    return {
        "run": str(run.folder),
        "label": label,
        "strategy": config.strategy,
        "granularity": str(config.granularity),
        "budget": config.budget,
        "charged": cost["charged"],
        "seconds": cost["seconds"],
    }


def _front_json(front: JointFront) -> dict[str, Any]:
    points = [
        {"plan": str(point.plan), "values": list(point.values), "runs": [str(run.folder) for run in point.runs]}
        for point in front.points
    ]
    shares = {str(run.folder): share for run, share in front.hypervolumes}
    bounds = [bound and {"worst": bound.worst, "best": bound.best, "told": bound.told} for bound in front.bounds]
    hypervolume = {"bounds": bounds, "logarithmic": list(front.logarithmic), "shares": shares}
    return {"axes": list(front.axes), "points": points, "hypervolume": hypervolume}

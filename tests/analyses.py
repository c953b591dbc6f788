"""Folders as `searcher analyze` leaves them, with made-up numbers."""

import json

import numpy as np

from searcher.anatomy.parts import PARTS


def write_analysis(folder, parts=PARTS, blocks=6, windows=5, granularity="block", seed=0, **record):
    """An analysis of a model of so many blocks; returns the arrays and facts of each part."""
    random = np.random.default_rng(seed)
    kinds = {"block": ("",), "attention": (".attn",), "ffn": (".ffn",), "sublayer": (".attn", ".ffn")}[granularity]
    units = np.array([f"{block}{kind}" for block in range(blocks) for kind in kinds])
    made = {part: _MAKE[part](random, units, blocks, windows) for part in parts}
    folder.mkdir(parents=True, exist_ok=True)
    for part, (arrays, facts) in made.items():
        np.savez(folder / f"{part}.npz", **arrays)
        (folder / f"{part}.json").write_text(json.dumps(facts))
    content = {
        "format": 1,
        "identity": {"dtype": "float32"},
        "model": "small & <b>bold</b>",
        "text": "prose",
        "num_blocks": blocks,
        "windows": windows,
        "window_tokens": 32,
        "documents": [0, 0, *range(1, windows - 1)],
        "granularity": granularity,
        "config": {"windows": windows, "name": "one"},
        "parts": list(parts),
        "cost": {part: {"layer_forwards": 1234.0, "heads": 56.0, "seconds": 7.8} for part in parts},
        "versions": {"numpy": "1.2.3"},
    }
    (folder / "analysis.json").write_text(json.dumps(content | record))
    return made


def _influence(random, units, blocks, windows):
    dense = 3 + 0.2 * random.standard_normal(windows)
    worth = 0.05 + 0.2 * random.random(len(units)) + np.where(np.arange(len(units)) < 1, 4.0, 0.0)
    removed = dense + worth[:, None] + 0.05 * random.standard_normal((len(units), windows))
    metrics = {name: worth * np.exp(0.5 * random.standard_normal(len(units))) for name in ("cosine", "taylor")}
    arrays = {"units": units, "dense": dense, "removed": removed, "leave_one_out": (removed - dense).mean(1), **metrics}
    found = {"value": 0.5, "low": 0.123, "high": 0.789, "count": len(units)}
    unknown = {"value": None, "low": None, "high": None, "count": len(units)}
    return arrays, {"units": len(units), "windows": windows, "correlations": {"cosine": found, "taylor": unknown}}


def _updates(random, units, blocks, windows):
    names = np.array([f"{block}.{kind}" for block in range(blocks) for kind in ("attn", "ffn")])
    sizes = np.exp(random.standard_normal(len(names)))
    arrays = {"units": names, "mean": 0.01 * random.standard_normal(len(names)), "mean_absolute": sizes}
    return arrays | {"sigma": 1.3 * sizes}, {"tokens": windows * 32, "units": list(names)}


def _heads(random, units, blocks, windows):
    outputs = random.standard_normal((blocks, 4, 6)) + 0.7
    outputs /= np.linalg.norm(outputs, axis=-1, keepdims=True)
    cosines = outputs @ outputs.transpose(0, 2, 1)
    cosines[-1] = np.nan
    facts = {"heads": [4] * (blocks - 1) + [0], "not_found": {str(blocks - 1): "it has no attention module"}}
    return {"cosines": cosines}, facts


def _contiguous(random, units, blocks, windows):
    cosines = np.full((blocks, blocks), np.nan)
    for length in range(1, blocks + 1):
        cosines[length - 1, : blocks - length + 1] = 0.97**length - 0.1 * random.random(blocks - length + 1)
    return {"cosines": cosines}, {"most_alike": []}


def _replacement(random, units, blocks, windows):
    place, block = np.indices((blocks, blocks))
    worse = np.where(
        place == block, 0.0, (0.1 + 0.3 * abs(place - block)) * np.exp(random.standard_normal(place.shape))
    )
    worse[0, 1:] += 5
    dense = 3 + 0.2 * random.standard_normal(windows)
    noise = 0.02 * random.standard_normal((blocks, blocks, windows)) * (place != block)[..., None]
    losses = dense + worse[..., None] + noise
    losses[0, blocks - 1] = np.nan
    arrays = {
        "losses": losses,
        "perplexity": np.exp(losses.mean(-1)),
        "as_copy": worse.mean(0),
        "as_place": worse.mean(1),
    }
    relation = {"value": 0.4, "low": 0.2, "high": 0.6, "count": 9}
    misfits = [{"place": 0, "block": blocks - 1, "reason": "it cannot run there"}]
    return arrays, {
        "windows": windows,
        "symmetry": relation,
        "symmetry_near": {"distance": 3, **relation},
        "misfits": misfits,
    }


def _interactions(random, units, blocks, windows):
    matrix = _pairs(random, len(units))
    per_window = matrix[..., None] + 0.01 * np.arange(windows) - 0.005 * (windows - 1)
    halves = np.full(matrix.shape, 0.05)
    arrays = {"units": units, "dense": np.zeros(windows), "single": np.zeros((len(units), windows))}
    arrays |= {"per_window": per_window, "matrix": matrix, "errors": halves / 3, "half_widths": halves}
    facts = {"pairs": len(units) * (len(units) - 1) // 2, "windows": windows, "unknown": 0, "intervals": "95%"}
    facts |= {"redundant_count": 1, "complementary_count": 1, "redundant": [], "complementary": []}
    return arrays, facts


def _shapley(random, units, blocks, windows):
    facts = {"index": "k-SII", "order": 2, "estimator": "shapiq.KernelSHAPIQ", "budget": 64, "plans": 64}
    facts |= {"exact": True, "agreement": None, "total": 1.0, "broken": 0}
    return {"units": units, "single": random.random(len(units)), "pairs": _pairs(random, len(units))}, facts


def _pairs(random, count):
    """Symmetric, with one pair far above and one far below the rest."""
    half = np.triu(0.03 * random.standard_normal((count, count)), 1)
    half[1, 2], half[0, 3] = 0.6, -0.9
    matrix = half + half.T
    np.fill_diagonal(matrix, np.nan)
    return matrix


_MAKE = {
    "influence": _influence,
    "updates": _updates,
    "heads": _heads,
    "contiguous": _contiguous,
    "replacement": _replacement,
    "interactions": _interactions,
    "shapley": _shapley,
}

"""Does a checkpoint give what the search measured? Run in a process that knows nothing but the folder.

python -m searcher.checkpoint.verify FOLDER REFERENCE
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import GenerationConfig

from searcher.checkpoint.load import load_checkpoint
from searcher.replay.footprint import cache_bytes

TOLERANCE = 1e-4
"""Of float32 logits, relative to the largest."""
GENERATED = 16
"""Tokens to generate with a cache and without."""


@dataclass(frozen=True)
class Agreement:
    """Whether a model does with a key-value cache what it does without.

    Attributes:
        cache_difference: between logits with a cache and without, the largest, relative to the largest logit; None if
            it cannot be run token by token.
        same_text: whether generation is the same with a cache and without.
        generated: tokens that were generated.
        cache_bytes: what the cache took for each token of the text.
    """

    cache_difference: float | None
    same_text: bool
    generated: int
    cache_bytes: float


@dataclass(frozen=True)
class Verified(Agreement):
    """What a checkpoint was found to do, in float32.

    Attributes:
        logit_difference: to the candidate's, the largest, relative to the largest logit.
        parameters: of the model, tied ones once.
    """

    logit_difference: float
    parameters: int


def verify(folder: Path, reference: Path, trust: bool = False) -> Verified:
    """Load a checkpoint in float32 and compare it.

    Args:
        folder: of the checkpoint.
        reference: safetensors with int64 `ids` (1, tokens) and float32 `logits` (1, tokens, vocabulary).
        trust: whether to run modelling code that comes with it.
    """
    model, wanted = load_checkpoint(folder, torch.float32, trust=trust), load_file(reference)
    with torch.inference_mode():
        logits = model(input_ids=wanted["ids"], use_cache=False).logits
    scale = float(wanted["logits"].abs().max()) or 1.0
    return Verified(
        **asdict(agreement(model, wanted["ids"])),
        logit_difference=float((logits - wanted["logits"]).abs().max()) / scale,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
    )


def agreement(model: Any, ids: Tensor) -> Agreement:
    """Run a model in float32 on int64 (1, tokens) with a key-value cache and without."""
    with torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False).logits
        try:
            cached, used = _step_by_step(model, ids)
        except (RuntimeError, TypeError, AttributeError, LookupError, ValueError):  # a family that keeps no such cache
            return Agreement(None, False, 0, 0.0)
        prompt = ids[:, : max(1, min(ids.shape[1], _limit(model) - GENERATED))]
        texts = [_generate(model, prompt, use_cache) for use_cache in (True, False)]
    return Agreement(
        float((cached - logits).abs().max()) / (float(logits.abs().max()) or 1.0),
        torch.equal(*texts),
        texts[0].shape[1] - prompt.shape[1],
        used / ids.shape[1],
    )


def _limit(model: Any) -> int:
    return int(getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None) or 1 << 30)


def _step_by_step(model: Any, ids: Tensor) -> tuple[Tensor, int]:
    """Logits of the first half at once and then token by token, and the bytes of the cache in the end."""
    half = ids.shape[1] // 2
    done = model(input_ids=ids[:, :half], use_cache=True)
    logits = [done.logits]
    kept = "cache_params" if "cache_params" in done else "past_key_values"  # as models with a state call it
    for position in range(half, ids.shape[1]):
        done = model(input_ids=ids[:, position : position + 1], **{kept: done[kept]}, use_cache=True)
        logits.append(done.logits)
    used = sum(cache_bytes(layer) for layer in getattr(done[kept], "layers", ()))
    return torch.cat(logits, dim=1), used


def _generate(model: Any, prompt: Tensor, use_cache: bool) -> Tensor:
    """Greedily, whatever the checkpoint's own generation config asks for: beams, stop words, another kind of cache."""
    own, model.generation_config = model.generation_config, GenerationConfig(pad_token_id=0)
    try:
        text: Tensor = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=GENERATED,
            do_sample=False,
            use_cache=use_cache,
        )
    finally:
        model.generation_config = own
    return text


if __name__ == "__main__":
    folder, reference, *more = sys.argv[1:]
    found = verify(Path(folder), Path(reference), trust="--trust-remote-code" in more)
    sys.stdout.write(json.dumps(asdict(found)) + "\n")

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

from searcher.checkpoint.load import load_checkpoint
from searcher.sizes import cache_bytes

GENERATED = 16
"""Tokens to generate with a cache and without."""


@dataclass(frozen=True)
class Verified:
    """What a checkpoint was found to do, in float32.

    Attributes:
        logit_difference: to the candidate's, the largest, relative to the largest logit.
        cache_difference: between logits with a cache and without, the same way.
        same_text: whether generation is the same with a cache and without.
        generated: tokens that were generated.
        parameters: of the model, tied ones once.
        cache_bytes: what the key-value cache took for each token of the reference text, in float32.
    """

    logit_difference: float
    cache_difference: float
    same_text: bool
    generated: int
    parameters: int
    cache_bytes: float


def verify(folder: Path, reference: Path, trust: bool = False) -> Verified:
    """Load a checkpoint in float32 and compare it.

    Args:
        folder: of the checkpoint.
        reference: safetensors with int64 `ids` (1, tokens) and float32 `logits` (1, tokens, vocabulary).
        trust: whether to run modelling code that comes with it.
    """
    model, wanted = load_checkpoint(folder, torch.float32, trust=trust), load_file(reference)
    ids = wanted["ids"]
    with torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False).logits
        cached, used = _step_by_step(model, ids)
        prompt = ids[:, : max(1, min(ids.shape[1], _limit(model) - GENERATED))]
        texts = [_generate(model, prompt, use_cache) for use_cache in (True, False)]
    scale = float(wanted["logits"].abs().max()) or 1.0
    return Verified(
        float((logits - wanted["logits"]).abs().max()) / scale,
        float((cached - logits).abs().max()) / scale,
        torch.equal(*texts),
        texts[0].shape[1] - prompt.shape[1],
        sum(parameter.numel() for parameter in model.parameters()),
        used / ids.shape[1],
    )


def _limit(model: Any) -> int:
    return int(getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None) or 1 << 30)


def _step_by_step(model: Any, ids: Tensor) -> tuple[Tensor, int]:
    """Logits of the first half at once and then token by token, and the bytes of the cache in the end."""
    half = ids.shape[1] // 2
    done = model(input_ids=ids[:, :half], use_cache=True)
    logits = [done.logits]
    for position in range(half, ids.shape[1]):
        done = model(input_ids=ids[:, position : position + 1], past_key_values=done.past_key_values, use_cache=True)
        logits.append(done.logits)
    used = sum(cache_bytes(layer) for layer in getattr(done.past_key_values, "layers", ()))
    return torch.cat(logits, dim=1), used


def _generate(model: Any, prompt: Tensor, use_cache: bool) -> Tensor:
    text: Tensor = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=GENERATED,
        min_new_tokens=GENERATED,
        do_sample=False,
        use_cache=use_cache,
        pad_token_id=0,
    )
    return text


if __name__ == "__main__":
    folder, reference, *more = sys.argv[1:]
    found = verify(Path(folder), Path(reference), trust="--trust-remote-code" in more)
    sys.stdout.write(json.dumps(asdict(found)) + "\n")

"""Text that the dense model writes itself: sampled token by token, and kept in the cache batch by batch.

Healing can use it where there is no text like that which the model was trained on, as quantisers calibrate on text of
the model's own: LLM-QAT (Liu et al. 2023, arXiv:2305.17888, section 3.1), SGLang (sgl-project/sglang#32414); for models
that reason, arXiv:2602.01997.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from searcher.architecture.devices import computes_on_cpu
from searcher.errors import UsageError, first_line
from searcher.loading.environment import dense_identity
from searcher.loading.model import LoadedModel
from searcher.loading.pretrained import quietly
from searcher.loading.sources import Source
from searcher.loading.windows import bos_token
from searcher.replay.dense_cache import DenseCache
from searcher.runs.generated import Generated

ROWS = {"cpu": 16, "accelerator": 128}
"""Windows written together. Batches are always whole, so that a shorter text is the beginning of a longer one."""
SLACK = 16
"""A window's share of tokens written beyond it: text, read again, may be cut into fewer tokens than it was made of."""
CHECKED = 6
"""Tokens written to see that the model's cache of keys and values gives what it gives without."""
TOLERANCE = {torch.float32: 1e-3}
"""Of logits, relative to the largest; other dtypes round more."""
SAY_EVERY = 10.0
"""Seconds."""


def write_text(
    wanted: Generated, model: LoadedModel, tokens: int, say: Callable[[str], None] = lambda _: None
) -> Source:
    """Let the model write windows, or take those of this kind that it has written before.

    Every document begins with the BOS token where the tokenizer puts one before a text (it is left out of the text,
    since windows get one anyway); else with a token drawn evenly from those of the vocabulary that are text by
    themselves and no special ones. What follows is sampled from the model's own distribution, at temperature 1. Tokens
    that end a text are not drawn, so that every document fills a window. The same seed gives the same text on the same
    machine in the same dtype.

    Args:
        wanted: how much, and the seed.
        model: the dense model.
        tokens: of a window, the BOS token among them.
        say: told how far it is.

    Raises:
        UsageError: its weights are streamed, and the text is not in the cache; or the model cannot generate.
    """
    bos = bos_token(model.tokenizer)
    begin = torch.tensor(bos or _plain_tokens(model), dtype=torch.int64)
    length = _length(model, tokens)
    rows = ROWS["cpu" if computes_on_cpu(model.device) else "accelerator"]
    cache = DenseCache(dense_identity(model), say)
    batches, told = [], time.monotonic()
    for number in range(-(-wanted.windows // rows)):
        what = f"own text: batch {number} of seed {wanted.seed}, {rows} rows of {length} tokens"
        found = cache.find(what, [begin])
        if found is None:
            if not number or time.monotonic() - told > SAY_EVERY:
                told = time.monotonic()
                say(f"{model.name} writes its own text: {number * rows} of {wanted.windows} windows")
            found = {"ids": _write(model, begin, rows, length, (wanted.seed, number))}
            cache.keep(what, [begin], found)
        batches.append(found["ids"])
    ids = torch.cat(batches)[: wanted.windows, len(bos) :]
    decode = model.tokenizer.batch_decode
    documents = decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return Source(wanted.name, tuple(documents), whole=True)


def _length(model: LoadedModel, tokens: int) -> int:
    limit = getattr(model.model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    return min(tokens + max(4, tokens // SLACK), limit or tokens * 2)


def _plain_tokens(model: LoadedModel) -> list[int]:
    """Tokens that a text may begin with: whole characters, no special tokens, and embedded by the model."""
    tokenizer, embedded = model.tokenizer, model.model.get_input_embeddings().weight.shape[0]
    special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    candidates = sorted(token for token in set(tokenizer.get_vocab().values()) - special if token < embedded)
    texts = tokenizer.batch_decode([[token] for token in candidates])
    found = [token for token, text in zip(candidates, texts, strict=True) if text.strip() and "\ufffd" not in text]
    if not found:
        raise UsageError(f"The tokenizer of {model.name} has no token that a text could begin with", "Give a text")
    return found


def _write(model: LoadedModel, begin: Tensor, rows: int, length: int, seed: tuple[int, int]) -> Tensor:
    """int64 (rows, length) on the CPU."""
    if model.store is not None:
        raise UsageError(
            f"{model.name} cannot write text while its weights are streamed: all would be read for every token",
            "Give a text, or use --weights resident where there is room",
        )
    with _plainly(model.model), quietly():
        try:
            with _seeded(model.device, seed):
                cached = _cache_is_right(model, begin[:2, None].to(model.device))
            with _seeded(model.device, seed):
                first = begin[torch.randint(len(begin), (rows, 1))].to(model.device)
                written: Tensor = _sample(model.model, first, length - 1, use_cache=cached).sequences
                return written.cpu()
        except (RuntimeError, ValueError, TypeError, AttributeError, LookupError, NotImplementedError) as error:
            raise UsageError(f"{model.name} cannot write text ({first_line(error)})", "Give a text") from error


def _sample(model: Any, first: Tensor, count: int, **options: Any) -> Any:
    ends = model.generation_config.eos_token_id
    config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=count,
        min_new_tokens=count,  # no token that ends a text is drawn
        eos_token_id=ends,
        pad_token_id=0,  # no row is padded
        return_dict_in_generate=True,
        **options,
    )
    return model.generate(first, attention_mask=torch.ones_like(first), generation_config=config)


def _cache_is_right(model: LoadedModel, first: Tensor) -> bool:
    """Whether the model gives the same with its cache as without; one whose parts were changed might not."""
    written = _sample(model.model, first, CHECKED, use_cache=True, output_logits=True)
    with torch.no_grad():
        whole = model.model(input_ids=written.sequences[:, :-1], use_cache=False).logits[:, -1].float()
    difference = (written.logits[-1].float() - whole).abs().max()
    return bool(difference <= TOLERANCE.get(model.model.dtype, 5e-2) * whole.abs().max())


@contextlib.contextmanager
def _seeded(device: torch.device, seed: tuple[int, int]) -> Iterator[None]:
    """Draws of torch follow from the seed; afterwards all generators are as they were."""
    on_cpu = computes_on_cpu(device)
    there = [] if on_cpu else list(range(torch.get_device_module(device).device_count()))
    with torch.random.fork_rng(devices=there, **({} if on_cpu else {"device_type": device.type})):
        torch.manual_seed(seed[0] * 2**31 + seed[1])
        yield


@contextlib.contextmanager
def _plainly(model: Any) -> Iterator[None]:
    """Without what the checkpoint says of how to sample: its settings would be taken where ours say nothing."""
    own = model.generation_config
    model.generation_config = GenerationConfig(eos_token_id=own.eos_token_id)
    try:
        yield
    finally:
        model.generation_config = own

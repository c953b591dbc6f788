"""Tiny checkpoints loaded with all weights in memory, and streamed, nothing staying that can be streamed."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from searcher.loading import streamed_model
from searcher.loading.streamed_model import StreamedModel, open_streamed


def streamed_from(folder: Path, monkeypatch, dtype=torch.float32) -> StreamedModel:
    """The checkpoint, its embedding and head among what is streamed."""
    monkeypatch.setattr(streamed_model, "LARGE", 0)
    return open_streamed(folder, str(folder), dtype, torch.device("cpu"), "tiny", {})


def resident_from(folder: Path, dtype=torch.float32):
    """The same model in memory."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval().requires_grad_(False)

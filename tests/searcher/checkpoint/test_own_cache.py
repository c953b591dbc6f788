"""Families that do not do with a cache what they do without: the pruned model is compared with the dense one."""

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import transformers
from families import _COMMON, _EXPERTS, _GROUPED
from transformers import AutoModelForCausalLM

import searcher
from searcher.checkpoint import fresh
from searcher.checkpoint.verify import TOLERANCE, verify
from searcher.errors import UsageError
from searcher.testing import tiny_tokenizer


def minimax(first, second):
    """transformers' cache of MiniMax counts its tokens by the first block, and miscounts if that has a state."""
    return transformers.MiniMaxConfig(
        num_hidden_layers=4, layer_types=[first, second] * 2, **_GROUPED, **_EXPERTS, head_dim=8, block_size=8
    )


CONFIGS = {
    "agrees": lambda: minimax("full_attention", "linear_attention"),
    "differs": lambda: minimax("linear_attention", "full_attention"),
    "mamba": lambda: transformers.MambaConfig(
        num_hidden_layers=4, state_size=8, **{n: v for n, v in _COMMON.items() if n != "num_attention_heads"}
    ),
}


@pytest.fixture
def export(tmp_path, monkeypatch):
    """Exports a plan of one of these models, verified in this process."""
    monkeypatch.setattr(fresh, "in_fresh_process", lambda _, f, r: asdict(verify(Path(f), Path(r))))

    def exported(kind, plan):
        model = AutoModelForCausalLM.from_config(CONFIGS[kind](), dtype=torch.float32)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in (p for p in model.parameters() if p.dim() >= 2):
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
        model.save_pretrained(tmp_path / "dense")
        tiny_tokenizer().save_pretrained(tmp_path / "dense")
        options = {"model": str(tmp_path / "dense"), "dtype": "float32", "device": "cpu", "quiet": True}
        return searcher.export(None, tmp_path / "out", plan=plan, **options).verified

    return exported


def test_a_family_that_agrees_is_held_to_it(export):
    found = export("agrees", "1")
    assert found["cache_difference"] <= TOLERANCE
    assert "dense_cache_difference" not in found


def test_what_the_dense_model_does_not_do_need_not_be_done_and_is_said(export, tmp_path):
    found = export("differs", "1")
    assert found["cache_difference"] > 0.1
    assert found["dense_cache_difference"] > 0.1
    assert "because the original's do, by" in " ".join((tmp_path / "out/README.md").read_text().split())


def test_a_plan_that_breaks_the_cache_of_a_family_is_refused_for_what_it_is(export, tmp_path):
    with pytest.raises(UsageError, match=r"the dense model's by .*transformers has no cache for this order of blocks"):
        export("agrees", "0")
    assert not (tmp_path / "out").exists()


def test_a_model_with_a_state_for_a_cache(export):
    found = export("mamba", "0,3")
    assert found["logit_difference"] <= TOLERANCE
    assert found["cache_difference"] is not None

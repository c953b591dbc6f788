"""Tiny, randomly initialised models of many families, for tests that must hold whatever the architecture."""

from collections.abc import Callable
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

VOCABULARY = 97
WINDOW = 8  # of every sliding-window family; tests use longer texts, so that a wrong mask shows

_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_COMMON = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_attention_heads": 4, **_TOKENS}
_GROUPED = {**_COMMON, "num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": 256}
_EXPERTS = {"num_experts_per_tok": 2, "num_local_experts": 4}


def _alternating(num_blocks: int) -> list[str]:
    """Window, full, window, … : removing any block shifts the kinds of those after it."""
    return [("sliding_attention", "full_attention")[block % 2] for block in range(num_blocks)]


def _config(name: str, num_blocks: int, **options: Any) -> PretrainedConfig:
    return getattr(transformers, f"{name}Config")(num_hidden_layers=num_blocks, **options)


def _sliding(name: str, n: int, **options: Any) -> PretrainedConfig:
    return _config(name, n, **_GROUPED, sliding_window=WINDOW, layer_types=_alternating(n), **options)


FAMILIES: dict[str, Callable[[int], PretrainedConfig]] = {
    "llama": lambda n: _config("Llama", n, **_GROUPED),
    "mistral": lambda n: _config("Mistral", n, **_GROUPED, sliding_window=WINDOW),
    "mixtral": lambda n: _config("Mixtral", n, **_GROUPED, **_EXPERTS),
    "qwen2": lambda n: _sliding("Qwen2", n, use_sliding_window=True),
    "qwen2_moe": lambda n: _config(
        "Qwen2Moe",
        n,
        **_GROUPED,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        mlp_only_layers=[1],
    ),
    "qwen3": lambda n: _config("Qwen3", n, **_GROUPED, head_dim=8),
    "qwen3_moe": lambda n: _config(
        "Qwen3Moe",
        n,
        **_GROUPED,
        head_dim=8,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        mlp_only_layers=[1],
    ),
    "gemma": lambda n: _config("Gemma", n, **_GROUPED, head_dim=8),
    "gemma2": lambda n: _sliding(
        "Gemma2",
        n,
        head_dim=8,
        query_pre_attn_scalar=8,
        attn_logit_softcapping=5.0,
        final_logit_softcapping=3.0,
    ),
    "gemma3_text": lambda n: _sliding("Gemma3Text", n, head_dim=8, query_pre_attn_scalar=8),
    "phi": lambda n: _config("Phi", n, **_GROUPED),
    "phi3": lambda n: _config("Phi3", n, **_GROUPED, sliding_window=WINDOW),
    "phimoe": lambda n: _config("Phimoe", n, **_GROUPED, **_EXPERTS, sliding_window=WINDOW),
    "olmo2": lambda n: _config("Olmo2", n, **_GROUPED),
    "olmo3": lambda n: _sliding("Olmo3", n),
    "gpt2": lambda n: _config("GPT2", n, **_COMMON, n_inner=64, max_position_embeddings=256),
    "gpt_neox": lambda n: _config("GPTNeoX", n, **_COMMON, intermediate_size=64, max_position_embeddings=256),
    "falcon": lambda n: _config("Falcon", n, **_COMMON, ffn_hidden_size=64, max_position_embeddings=256),
    "falcon_new": lambda n: _config(
        "Falcon",
        n,
        **_COMMON,
        num_kv_heads=2,
        new_decoder_architecture=True,
        ffn_hidden_size=64,
        max_position_embeddings=256,
    ),
    "bloom": lambda n: _config("Bloom", n, **_COMMON),
    "opt": lambda n: _config("OPT", n, **_COMMON, ffn_dim=64, max_position_embeddings=256, word_embed_proj_dim=32),
    "smollm3": lambda n: _config("SmolLM3", n, **_GROUPED, no_rope_layers=[(i + 1) % 2 for i in range(n)]),
    "stablelm": lambda n: _config("StableLm", n, **_GROUPED),
    "cohere": lambda n: _config("Cohere", n, **_GROUPED, logit_scale=0.25),
    "cohere2": lambda n: _sliding("Cohere2", n, logit_scale=0.25),
    "granite": lambda n: _config(
        "Granite", n, **_GROUPED, logits_scaling=2.0, residual_multiplier=0.5, embedding_multiplier=3.0
    ),
    "starcoder2": lambda n: _config("Starcoder2", n, **_GROUPED, sliding_window=WINDOW),
    "gpt_oss": lambda n: _sliding(
        "GptOss", n, **_EXPERTS, head_dim=8, rope_parameters={"rope_type": "default", "rope_theta": 10000.0}
    ),
    "glm": lambda n: _config("Glm", n, **_GROUPED, head_dim=8),
    "exaone4": lambda n: _sliding("Exaone4", n),
    "nemotron": lambda n: _config("Nemotron", n, **_GROUPED, head_dim=8),
    "deepseek_v3": lambda n: _config(
        "DeepseekV3",
        n,
        **{**_GROUPED, "num_key_value_heads": 4},
        first_k_dense_replace=2,
        n_routed_experts=4,
        n_shared_experts=1,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        moe_intermediate_size=16,
        kv_lora_rank=8,
        q_lora_rank=8,
        qk_rope_head_dim=4,
        qk_nope_head_dim=4,
        v_head_dim=8,
    ),
}
"""Family -> config of the given number of blocks. Where blocks differ from one another, the config mixes kinds."""

BLOCKS_ONLY = ("bloom",)
"""Families whose branches add the residual inside: only whole blocks can be removed from them."""


def tiny_model(family: str, *, num_blocks: int = 4, seed: int = 0) -> PreTrainedModel:
    """A causal LM of this family with 97 tokens and hidden size 32: eval mode, float32, CPU, no gradients.

    Weights are large and biases, norms and sinks are not at their neutral values, so that every sublayer matters and
    none of them can be forgotten without changing the loss.
    """
    model = AutoModelForCausalLM.from_config(FAMILIES[family](num_blocks), dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    for parameter in dict.fromkeys(model.parameters()):  # each once, tied ones too
        noise = torch.randn(parameter.shape, generator=generator)
        with torch.no_grad():
            if parameter.dim() >= 2:
                parameter.copy_(0.2 * noise)
            else:  # a norm around 1 (or 0, where the family adds 1), a bias around 0
                parameter.copy_(_neutral(parameter) + 0.2 * noise)
    return model.eval().requires_grad_(False)


def _neutral(parameter: torch.Tensor) -> float:
    """1 for a vector that was initialised to ones, else 0: random initial values depend on the global seed."""
    return float(bool((parameter == 1).all()))

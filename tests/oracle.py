"""The deliberately plain evaluator: the model as it would be if the plan's parts had never been there.

Slow and simple, so that it can be trusted: a copy of the model, blocks taken out of its list, output projections set
to zero, and then the model's own forward. Nothing here shares code with the replay it is compared with.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from searcher.contracts.plan import Action, PrunePlan

# model type -> what projects the output of (attention, FFN) back to the residual stream: modules, or parameters
# where the experts of all are one tensor
_LLAMA = (["self_attn.o_proj"], ["mlp.down_proj"])
_EXPERTS = (["self_attn.o_proj"], ["mlp.experts.down_proj"])
_MIXED = (["self_attn.o_proj"], ["mlp.down_proj", "mlp.experts.down_proj", "mlp.shared_expert.down_proj"])
_OUTPUTS = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "mixtral": _EXPERTS,
    "qwen2": _LLAMA,
    "qwen2_moe": _MIXED,
    "qwen3": _LLAMA,
    "qwen3_moe": _MIXED,
    "gemma": _LLAMA,
    "gemma2": _LLAMA,
    "gemma3_text": _LLAMA,
    "phi": (["self_attn.dense"], ["mlp.fc2"]),
    "phi3": _LLAMA,
    "phimoe": _EXPERTS,
    "olmo2": _LLAMA,
    "olmo3": _LLAMA,
    "gpt2": (["attn.c_proj"], ["mlp.c_proj"]),
    "gpt_neox": (["attention.dense"], ["mlp.dense_4h_to_h"]),
    "falcon": (["self_attention.dense"], ["mlp.dense_4h_to_h"]),
    "opt": (["self_attn.out_proj"], ["fc2"]),
    "smollm3": _LLAMA,
    "stablelm": _LLAMA,
    "cohere": _LLAMA,
    "cohere2": _LLAMA,
    "granite": _LLAMA,
    "starcoder2": (["self_attn.o_proj"], ["mlp.c_proj"]),
    "gpt_oss": (["self_attn.o_proj"], ["mlp.experts.down_proj", "mlp.experts.down_proj_bias"]),
    "glm": _LLAMA,
    "exaone4": _LLAMA,
    "nemotron": _LLAMA,
    "deepseek_v3": (
        ["self_attn.o_proj"],
        ["mlp.down_proj", "mlp.experts.down_proj", "mlp.shared_experts.down_proj"],
    ),
}


def oracle_losses(model: Any, ids: Tensor, plan: PrunePlan) -> Tensor:
    """The mean negative log-likelihood of each window, over its tokens after the first, in nats: (W,), float32.

    Args:
        model: a transformers causal LM; it is left as it is.
        ids: windows of equal length, (W, T).
        plan: what to remove.

    Raises:
        KeyError: the plan removes a sublayer from a family that this file has no entry for.
    """
    with torch.inference_mode():
        logits = pruned_copy(model, plan)(input_ids=ids, use_cache=False).logits  # (W, T, V)
    # in float64: over a large vocabulary torch's float32 sum along this dimension is off by 4e-5
    losses = F.cross_entropy(logits[:, :-1].double().transpose(1, 2), ids[:, 1:], reduction="none")  # (W, T - 1)
    return losses.mean(dim=1).float()


def pruned_copy(model: Any, plan: PrunePlan) -> Any:
    """A copy of the model without the plan's blocks and with its sublayers' output projections at zero.

    Run it with `use_cache=False`: the blocks keep their `layer_idx`.
    """
    pruned = copy.deepcopy(model)
    config = pruned.config.get_text_config(decoder=True)
    num_blocks = config.num_hidden_layers
    blocks = next(m for m in pruned.modules() if isinstance(m, nn.ModuleList) and len(m) == num_blocks)
    actions = plan.actions(num_blocks)
    for block, action in zip(blocks, actions, strict=True):
        if action is not Action.GONE:
            _zero_outputs(block, action, config.model_type)
    kept = [index for index, action in enumerate(actions) if action is not Action.GONE]
    _keep_blocks(blocks, kept)
    _filter_config(config, kept, num_blocks)
    return pruned


def _zero_outputs(block: nn.Module, action: Action, model_type: str) -> None:
    for part, bit in enumerate((Action.NO_ATTENTION, Action.NO_FFN)):
        if not action & bit:
            continue
        outputs = [found for path in _OUTPUTS[model_type][part] if (found := _at(block, path)) is not None]
        assert outputs, f"no output projection found for {bit.name} of {model_type}"
        for output in outputs:
            for parameter in [output] if isinstance(output, nn.Parameter) else output.parameters():
                parameter.data.zero_()


def _at(block: nn.Module, path: str) -> Any:
    found: Any = block
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


def _keep_blocks(blocks: nn.ModuleList, kept: list[int]) -> None:
    for index in reversed(range(len(blocks))):
        if index not in kept:
            del blocks[index]


def _filter_config(config: Any, kept: list[int], num_blocks: int) -> None:
    """Every list with one entry per block loses those of the removed ones: some are read by position in the forward.

    `mlp_only_layers` holds block numbers and matters only while a model is built, which has happened.
    """
    config.num_hidden_layers = len(kept)
    for name, value in list(vars(config).items()):
        if isinstance(value, list | tuple) and len(value) == num_blocks and name != "mlp_only_layers":
            setattr(config, name, type(value)(value[index] for index in kept))

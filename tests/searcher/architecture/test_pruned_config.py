"""Which lists of a config have an entry for each block, in every family."""

import pytest
from families import FAMILIES
from transformers import Gemma3nTextConfig, LlamaConfig, PretrainedConfig

from searcher.architecture.pruned_config import per_block_fields

BLOCKS = 6
TYPED = ("qwen2", "qwen3", "qwen2_moe", "gemma2", "gemma3_text", "olmo3", "cohere2", "gpt_oss", "exaone4")
EXPECTED = {family: ["layer_types"] for family in TYPED} | {"smollm3": ["layer_types", "no_rope_layers"]}


class OwnConfig(PretrainedConfig):
    """Of a model with code of its own."""

    def __init__(self, num_hidden_layers=4, width=8, **more):
        self.num_hidden_layers, self.width = num_hidden_layers, width
        super().__init__(**more)


@pytest.mark.parametrize("family", FAMILIES)
def test_lists_that_are_as_long_as_there_are_blocks(family):
    """Six stop tokens, six architectures, six factors of a position embedding: none of them is per block."""
    config = FAMILIES[family](BLOCKS)
    config.eos_token_id = list(range(BLOCKS))
    config.architectures = [f"A{i}" for i in range(BLOCKS)]
    config.suppress_tokens = list(range(BLOCKS))
    config.something_of_mine = [1.0] * BLOCKS
    assert sorted(per_block_fields(config, BLOCKS)) == EXPECTED.get(family, [])


def test_a_list_where_the_class_has_one_number_for_all_blocks():
    config = Gemma3nTextConfig(num_hidden_layers=BLOCKS, num_kv_shared_layers=2)
    found = per_block_fields(config, BLOCKS)
    assert {"intermediate_size", "layer_types", "activation_sparsity_pattern"} <= set(found)
    assert per_block_fields(OwnConfig(num_hidden_layers=BLOCKS, width=[8] * BLOCKS), BLOCKS) == ["width"]


def test_a_field_that_the_class_does_not_know_is_told_by_its_name():
    config = LlamaConfig(num_hidden_layers=BLOCKS, layer_scales=[1.0] * BLOCKS, anchors=[1.0] * BLOCKS)
    assert per_block_fields(config, BLOCKS) == ["layer_scales"]

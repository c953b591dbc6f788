"""What a plan leaves equals what a materialised model has, in every family."""

import pytest
import torch
from families import FAMILIES, tiny_model
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from objectives.sizes import KVCache
from searcher.contracts.amounts import Amounts
from searcher.contracts.plan import Granularity, PrunePlan
from searcher.errors import UsageError
from searcher.replay.footprint import cache_bytes, count_bytes, count_parameters, measure_amounts
from searcher.replay.pruned_model import pruned
from searcher.replay.self_check import open_replay

TOKENS = 24  # longer than any sliding window
BLOCKS_ONLY = ("bloom", "opt")


@pytest.fixture(params=FAMILIES)
def opened(request):
    granularity = Granularity.BLOCK if request.param in BLOCKS_ONLY else Granularity.SUBLAYER
    with torch.inference_mode():
        replay = open_replay(tiny_model(request.param), granularity)
        return replay, measure_amounts(replay, TOKENS), granularity


def test_equal_those_of_a_materialised_model(opened):
    replay, amounts, granularity = opened
    texts = ["dense", "0", "1-2", *(["0.attn", "1,2.ffn,3.attn"] if granularity is Granularity.SUBLAYER else [])]
    ids = torch.zeros((1, TOKENS), dtype=torch.int64)
    for plan in map(PrunePlan.parse, texts):
        with torch.inference_mode(), pruned(replay.model, replay.architecture, replay.outputs, plan) as model:
            silent = [
                module
                for unit in plan.removed
                if unit.part != "block"
                for module in replay.architecture.removed_by(unit.block, plan.action(unit.block))
            ]
            for count, name in ((count_parameters, "parameters"), (count_bytes, "weights-bytes")):
                assert amounts[name].left(plan) == count([model]) - count(silent)
            if "kv-cache" in amounts:
                cache = model(input_ids=ids, use_cache=True).past_key_values
                held = sum(map(cache_bytes, cache.layers))
                left = amounts["kv-cache"].left(plan) * TOKENS
                counting = sum(unit.part == "attn" for unit in plan.removed)  # one number for keys and one for values
                assert left - 1e-3 <= held <= left + counting * 2 * 4 * TOKENS + 1e-3
            with FlopCounterMode(display=False) as counter, sdpa_kernel([SDPBackend.MATH]):
                model(input_ids=ids, use_cache=False)
            assert amounts["flops"].left(plan) * TOKENS == pytest.approx(counter.get_total_flops())


def test_attention_holds_the_cache(opened):
    _, amounts, granularity = opened
    if "kv-cache" in amounts and granularity is Granularity.SUBLAYER:
        cache = amounts["kv-cache"]
        assert cache.left(PrunePlan.parse("0.ffn")) == cache.whole
        assert cache.left(PrunePlan.parse("0.attn")) == cache.left(PrunePlan.parse("0")) < cache.whole


def test_what_a_llama_has():
    with torch.inference_mode():
        amounts = measure_amounts(open_replay(tiny_model("llama"), Granularity.BLOCK), TOKENS)
    heads, head_dim, size = 2, 8, 4  # key-value heads, their width, bytes of a float32
    assert amounts["kv-cache"].attention[0] == 2 * heads * head_dim * size
    ffn = 3 * 32 * 64  # gate, up and down projection
    assert amounts["parameters"].ffn[0] == ffn
    assert amounts["flops"].ffn[0] == 2 * ffn


def test_json_keeps_it():
    amounts = Amounts(10.0, (4.0, 3.0), (1.0, 1.0), (2.0, 1.5))
    assert Amounts.from_json(amounts.to_json()) == amounts


def test_what_cannot_be_told_is_said():
    class Candidate:
        amounts = {"parameters": Amounts(1.0, (), (), ())}  # noqa: RUF012
        plan = PrunePlan()

        class config:  # noqa: N801
            model_type = "strange"

    with pytest.raises(UsageError, match="kv-cache' cannot be told for a strange model"):
        KVCache().measure(Candidate())

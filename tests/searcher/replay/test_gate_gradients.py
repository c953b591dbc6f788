"""Gradients by gates against finite differences of gates in the model's own forward; what they cost; and refusals."""

import copy

import numpy as np
import pytest
import torch
from families import VOCABULARY, tiny_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from searcher.contracts.plan import Action, Granularity, Part, Unit, all_units
from searcher.contracts.statistics import cost_of
from searcher.errors import UsageError
from searcher.replay.dense_statistics import measure_statistics
from searcher.replay.relative_flops import measure_prices
from searcher.replay.self_check import open_replay

IDS = torch.randint(VOCABULARY, (3, 24), generator=torch.Generator().manual_seed(1))
STEP = 0.02  # norms compute in float32 in any model, so a smaller one would show their rounding
ADDS = {  # by family, the module whose output goes into the hidden states
    "llama": {Part.ATTENTION: "self_attn", Part.FFN: "mlp"},
    "gpt2": {Part.ATTENTION: "attn", Part.FFN: "mlp"},
    "gemma2": {Part.ATTENTION: "post_attention_layernorm", Part.FFN: "post_feedforward_layernorm"},
    "gpt_neox": {Part.ATTENTION: "attention", Part.FFN: "mlp"},  # attention and FFN side by side
    "cohere": {Part.ATTENTION: "self_attn", Part.FFN: "mlp"},
}


def opened(model, granularity):
    with torch.inference_mode():
        return open_replay(model, granularity)


def measured(model, granularity, units=None):
    units = all_units(4, granularity) if units is None else units
    return measure_statistics(opened(model, granularity), IDS, ["gate-gradients"], units)["gate-gradients"]


def blocks_of(model):
    inner = getattr(model, "transformer", None) or getattr(model, "gpt_neox", None) or model.model
    return getattr(inner, "h", None) or inner.layers


def losses_with(model, family, unit, gate):
    """The mean loss of each window with one unit gated by a hook."""
    block = blocks_of(model)[unit.block]

    def scaled(_module, args, kwargs, output):
        tensor = output[0] if isinstance(output, tuple) else output
        before = (args[0] if args else kwargs["hidden_states"]) if unit.part is Part.BLOCK else torch.zeros_like(tensor)
        gated = before + gate * (tensor - before)
        return (gated, *output[1:]) if isinstance(output, tuple) else gated

    module = block if unit.part is Part.BLOCK else block.get_submodule(ADDS[family][unit.part])
    handle = module.register_forward_hook(scaled, with_kwargs=True)
    try:
        logits = model(input_ids=IDS, use_cache=False).logits[:, :-1]
    finally:
        handle.remove()
    return torch.nn.functional.cross_entropy(logits.mT, IDS[:, 1:], reduction="none").mean(dim=1).numpy()


def differences(model, family, units):
    """(windows, units): finite differences of fourth order, by five points."""
    exact = copy.deepcopy(model).double()
    with torch.no_grad():
        losses = {
            k: np.array([losses_with(exact, family, unit, 1 + k * STEP) for unit in units]) for k in (-2, -1, 1, 2)
        }
    return ((losses[-2] - losses[2] + 8 * (losses[1] - losses[-1])) / (12 * STEP)).T


@pytest.mark.parametrize("granularity", list(Granularity))
@pytest.mark.parametrize("family", ADDS)
def test_gradients_are_finite_differences(family, granularity):
    model, units = tiny_model(family), all_units(4, granularity)
    found, expected = measured(model, granularity), differences(model, family, units)
    assert found.shape == (3, len(units))
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=5e-4 * np.abs(expected).max())


@pytest.mark.parametrize("family", ["mixtral", "granite", "olmo2", "falcon", "qwen3_moe"])
def test_gradients_of_blocks_are_those_of_autograd_through_gates(family):
    """Where a difference would send tokens to other experts, or norms round more than it shows."""
    model, gates = tiny_model(family), torch.ones(4, requires_grad=True)
    for number, block in enumerate(blocks_of(model)):
        gate_block(block, gates[number])
    logits = model(input_ids=IDS, use_cache=False).logits[:, :-1]
    losses = torch.nn.functional.cross_entropy(logits.mT, IDS[:, 1:], reduction="none").mean(dim=1)
    expected = [torch.autograd.grad(loss, gates, retain_graph=True)[0].numpy() for loss in losses]
    np.testing.assert_allclose(measured(tiny_model(family), Granularity.BLOCK), expected, rtol=1e-3, atol=1e-5)


def gate_block(block, gate):
    def scaled(_module, args, kwargs, output):
        tensor, before = (
            output[0] if isinstance(output, tuple) else output,
            args[0] if args else kwargs["hidden_states"],
        )
        gated = before + gate * (tensor - before)
        return (gated, *output[1:]) if isinstance(output, tuple) else gated

    block.register_forward_hook(scaled, with_kwargs=True)


@pytest.mark.parametrize(
    "family", ["mixtral", "granite", "olmo2", "falcon", "falcon_new", "phi", "gpt_oss", "stablelm"]
)
def test_gates_of_sublayers_add_up_as_those_of_their_block_do(family):
    """A block's gate scales both; where they are read side by side, its gradient is the sum of theirs."""
    model = tiny_model(family)
    of_blocks, of_parts = measured(model, Granularity.BLOCK), measured(model, Granularity.SUBLAYER)
    side_by_side = np.allclose(of_blocks, of_parts[:, ::2] + of_parts[:, 1::2], rtol=1e-3, atol=1e-5)
    assert side_by_side == (family in ("falcon", "falcon_new", "phi"))
    np.testing.assert_allclose(measured(model, Granularity.ATTENTION), of_parts[:, ::2], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(measured(model, Granularity.FFN), of_parts[:, 1::2], rtol=1e-4, atol=1e-6)


def test_some_units_in_any_order_and_windows_one_by_one():
    model, some = tiny_model("llama"), [Unit(3, Part.FFN), Unit(1, Part.ATTENTION)]
    whole = measured(model, Granularity.SUBLAYER)
    np.testing.assert_allclose(measured(model, Granularity.SUBLAYER, some), whole[:, [7, 2]], rtol=1e-5)
    replay = opened(model, Granularity.SUBLAYER)
    one = measure_statistics(replay, IDS[1:2], ["gate-gradients"], some)["gate-gradients"]
    np.testing.assert_array_equal(one, measured(model, Granularity.SUBLAYER, some)[1:2])


def test_the_models_own_head_gives_the_same():
    model, units = tiny_model("gemma2"), all_units(4, Granularity.BLOCK)
    replay = opened(model, Granularity.BLOCK)
    replay.use_own_head()
    with torch.inference_mode():  # where the caller is does not matter
        found = measure_statistics(replay, IDS, ["gate-gradients"], units)["gate-gradients"]
    np.testing.assert_allclose(found, measured(model, Granularity.BLOCK), rtol=1e-4)


class CountedFlops(TorchDispatchMode):
    """Sums up FLOPs, also in backward passes, where torch's own counter gives up."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        with self:  # in inference mode some operations come whole
            parts = func.decompose(*args, **(kwargs or {}))
        if parts is not NotImplemented:
            return parts
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.total += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


@pytest.mark.parametrize("granularity", list(Granularity))
def test_what_is_run_is_what_is_charged(granularity):
    """In FLOPs, forwards and back; torch counts attention scores not at all on a CPU."""
    replay, units = opened(tiny_model("llama"), granularity), all_units(4, granularity)[2:]
    with torch.inference_mode():
        prices = measure_prices(replay, 24)
        hidden = replay.embed(IDS[:1])
        with CountedFlops() as of_block:
            replay.run_block(hidden, 0, Action.KEEP)
    with CountedFlops() as counter:
        measure_statistics(replay, IDS[:1], ["gate-gradients"], units)
    forwards, heads = cost_of(["gate-gradients"], units, 4, prices.weight)
    probe = 0 if granularity is Granularity.BLOCK else 4  # dense, on as many tokens; uncharged like the self-check
    probe += len({unit.block for unit in units if unit.part is not Part.BLOCK}) * (
        1 + prices.weight[Action.NO_ATTENTION]
    )
    assert counter.total / of_block.total - probe == pytest.approx(forwards + heads * prices.head, rel=0.01)


def test_half_precision_is_near():
    exact = measured(tiny_model("llama"), Granularity.SUBLAYER)
    found = measured(tiny_model("llama").bfloat16(), Granularity.SUBLAYER)
    assert np.corrcoef(exact.ravel(), found.ravel())[0, 1] > 0.98


def test_a_block_that_adds_up_in_no_known_way_is_refused(monkeypatch):
    replay, units = opened(tiny_model("llama"), Granularity.FFN), all_units(4, Granularity.FFN)
    run_block = type(replay).run_block
    monkeypatch.setattr(type(replay), "run_block", lambda self, h, b, a: run_block(self, h, b, a) * (1.5 if a else 1))
    with pytest.raises(UsageError, match="LlamaForCausalLM gives no gradients by gates: block 0 does not simply add"):
        measure_statistics(replay, IDS, ["gate-gradients"], units)


class NoWayBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden):
        return hidden.clone()

    @staticmethod
    def backward(ctx, *_):
        raise RuntimeError("this kernel has no backward")


def test_an_operation_without_a_derivative_is_refused_with_the_reason():
    model = tiny_model("llama")
    own = model.model.layers[2].mlp.forward
    model.model.layers[2].mlp.forward = lambda hidden: NoWayBack.apply(own(hidden))
    with pytest.raises(UsageError, match=r"the backward pass fails \(this kernel has no backward\)"):
        measured(model, Granularity.BLOCK)


def test_gradients_that_are_not_finite_are_refused():
    model = tiny_model("llama")
    model.model.norm.forward = lambda hidden: Overflowing.apply(hidden)
    with pytest.raises(UsageError, match="some are not finite"):
        measured(model, Granularity.BLOCK)


class Overflowing(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden):
        return hidden.clone()

    @staticmethod
    def backward(ctx, slope):
        return slope * torch.inf

"""Healings that train end to end: what they minimise, in which memory, and that they go on after a kill."""

import itertools
from dataclasses import replace

import pytest
import torch
from calibrations import calibration_of, heal, left_as_it_was
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from searcher.contracts.plan import Action, PrunePlan
from searcher.contracts.registry import make
from searcher.errors import UsageError
from searcher.healing import dense_targets, training, training_room, unfinished
from searcher.healing.end_to_end import EndToEnd, hidden_error
from searcher.healing.full import Full
from searcher.healing.lora import Lora
from searcher.healing.losses import Loss, parse_loss
from searcher.healing.staged import find_norms, find_weights
from searcher.healing.trainable import WholeWeights
from searcher.healing.training_room import Need, Passes, plan_passes
from searcher.replay.repair import Repair

SMALL = Lora(steps=6, rank=2, lr=1e-2, batch=2, patience=0, loss="text")
PLAN = PrunePlan.parse("1,2.ffn")


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ("text", Loss(text=1)),
        ("kl", Loss(kl=1)),
        ("kl+0.5*text", Loss(text=0.5, kl=1)),
        ("2hidden + 1e-1*kl", Loss(kl=0.1, hidden=2)),
    ],
)
def test_losses_are_read(terms, expected):
    assert parse_loss(terms, 1.0, "squared") == expected


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"loss": "kll"}, "'kll'"),
        ({"loss": "kl+kl"}, "twice"),
        ({"loss": "0*kl"}, "weight 0"),
        ({"loss": "-1*kl"}, r"-1\*kl"),
        ({"loss": ""}, "write text, kl, hidden"),
        ({"loss": "kl", "temperature": "0"}, "temperature"),
        ({"loss": "text", "temperature": "2"}, "temperature=2 is of the loss 'kl'"),
        ({"loss": "kl", "match": "cosine"}, "match=cosine is of the loss 'hidden'"),
        ({"iterative": "true", "dora": "true"}, "iterative=true"),
    ],
)
def test_bad_options_are_told_in_one_line(options, said):
    with pytest.raises(UsageError, match=said):
        make("healing", "lora", options)


TWO = Passes(2, False)


def student_of(calibration, loss, plan=PLAN, passes=TWO):
    """All weights of the model trained, so that gradients can be compared with autograd's on the model itself."""
    names = find_weights(calibration.replay, plan, [b for b in range(4) if plan.action(b) is not Action.GONE])
    trained = WholeWeights(calibration.replay.model, names)
    return EndToEnd(calibration, plan, trained, loss, passes), trained, names


def by_hand(calibration, plan, loss, rows, names):
    """The textbook's way: full logits of all windows of both models, one backward pass."""
    model, replay = calibration.replay.model, calibration.replay
    ids, own = calibration.fit[rows], dict(model.named_parameters())

    def run(actions):
        hidden, states = replay.embed(ids), {}
        for block, action in enumerate(actions):
            hidden = states[block] = replay.run_block(hidden, block, action)
        return torch.stack([*replay.head.logits(hidden, ids)])[:, :-1].float(), states

    with torch.no_grad():
        wanted, dense = run([Action.KEEP] * 4)
    with torch.enable_grad():
        for name in names:
            own[name].requires_grad_(True)
        logits, states = run(plan.actions(4))
        t = loss.temperature
        kl = (
            F.log_softmax(wanted / t, -1).exp() * (F.log_softmax(wanted / t, -1) - F.log_softmax(logits / t, -1))
        ).sum(-1)
        total = loss.text * F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()) + loss.kl * t**2 * kl.mean()
        kept = [b for b in range(4) if plan.action(b) is not Action.GONE]
        errors = [hidden_error(states[b], dense[b], loss.match).mean() for b in kept]
        total = total + loss.hidden * torch.stack(errors).mean()
        gradients = torch.autograd.grad(total, [own[name] for name in names], allow_unused=True)
        for name in names:
            own[name].requires_grad_(False)
    return total.item(), gradients


MIXED = Loss(text=0.5, kl=1, hidden=3, match="cosine")


@pytest.mark.parametrize(
    ("family", "loss", "passes"),
    [
        *(("llama", one, Passes(3, False)) for one in (Loss(text=1), Loss(kl=1, temperature=2), Loss(hidden=1), MIXED)),
        *(("llama", MIXED, passes) for passes in (Passes(2, False), Passes(1, True))),
        *((family, MIXED, Passes(2, False)) for family in ("gemma2", "gpt2", "mixtral")),
    ],
    ids=str,
)
def test_gradients_are_those_of_the_whole_computation(family, loss, passes):
    calibration = calibration_of(family)
    rows = torch.tensor([0, 3, 5])
    with left_as_it_was(calibration), torch.enable_grad():
        student, trained, names = student_of(calibration, loss, passes=passes)
        found = student.backward(rows)
    expected, gradients = by_hand(calibration, PLAN, loss, rows, names)
    assert found == pytest.approx(expected, rel=1e-5)
    for parameter, gradient, name in zip(trained.parameters, gradients, names, strict=True):
        wanted = torch.zeros_like(parameter) if gradient is None else gradient
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-4, atol=1e-6, msg=name)


def test_computing_states_again_changes_no_bit():
    calibration, found = calibration_of("llama", torch.bfloat16), []
    for checkpointed in (False, True):
        with torch.enable_grad():
            student, trained, _ = student_of(calibration, Loss(kl=1, hidden=1), passes=Passes(2, checkpointed))
            found.append((student.backward(torch.tensor([1, 4])), [p.grad.clone() for p in trained.parameters]))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))


@pytest.mark.parametrize("loss", ["kl", "hidden", "kl+0.5*text", "0.1*text+kl+hidden"])
def test_distilling_lowers_what_it_minimises(loss):
    checks = []
    calibration = calibration_of("llama", watch=checks.append)
    with left_as_it_was(calibration):
        repair = heal(calibration, str(PLAN), replace(SMALL, loss=loss, steps=30, batch=4, lr=2e-2))
    assert repair.added
    assert min(check.held_out for check in checks) < 0.99 * checks[0].held_out  # a random model has little to tell


@pytest.mark.parametrize("loss", ["kl", "hidden"])
def test_the_dense_model_has_nothing_to_learn_from_itself(loss):
    """So a control healed by distillation gains nothing, which is what tells mending from getting used to a text."""
    calibration = calibration_of("llama")
    repair = heal(calibration, "dense", replace(SMALL, loss=loss))
    assert all(not added.left.any() for added in repair.added.values())


def test_targets_that_do_not_fit_are_computed_again(monkeypatch):
    calibration = calibration_of("llama")
    kept = heal(calibration, "1", replace(SMALL, loss="kl+hidden"))
    monkeypatch.setattr(dense_targets, "KEPT", 0)
    again = heal(calibration, "1", replace(SMALL, loss="kl+hidden"))
    for name, added in kept.added.items():
        torch.testing.assert_close(again.added[name].left, added.left, rtol=1e-3, atol=1e-5)


def test_dense_targets_are_of_the_dense_model_in_every_stage():
    """Healed removal by removal, what was learnt before must not be taken for the dense model."""
    calibration = calibration_of("llama")
    states = []
    original = dense_targets.soft_targets

    def note(head, hidden, temperature):
        states.append(hidden.clone())
        return original(head, hidden, temperature)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dense_targets, "soft_targets", note)
        heal(calibration, "0,2", replace(SMALL, loss="kl", iterative=True, where="after"))
    half = len(states) // 2
    assert half
    assert all(torch.equal(a, b) for a, b in zip(states[:half], states[half:], strict=True))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_dora_is_merged_as_it_was_trained(family):
    calibration, checks = calibration_of(family), []
    calibration = replace(calibration, watch=checks.append)
    repair = heal(calibration, "1", replace(SMALL, dora=True, steps=20, lr=2e-2, batch=4))
    assert repair.weights
    assert not repair.added
    with torch.inference_mode():
        assert calibration.loss(PrunePlan.parse("1"), repair) == min(check.held_out for check in checks)
    assert checks[-1].fitted < checks[1].fitted  # what the adapted layers gave in training goes down as well


def test_dora_in_place_runs_what_is_merged():
    from searcher.healing.adapters import AdapterOptions, Adapters, find_layers

    calibration = calibration_of("llama")
    model, plan = calibration.replay.model, PrunePlan.parse("1")
    layers = find_layers(model, calibration.replay.architecture, plan, [0, 2, 3])
    adapters = Adapters(model, layers, AdapterOptions(2, 4.0, rslora=True, dora=True))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in adapters.parameters:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        with adapters.in_place():
            ((_, adapted),) = calibration.replay.states(calibration.held_out, [plan])
        from calibrations import final_states

        merged = final_states(calibration, "1", adapters.repair(), calibration.held_out)
        plain = final_states(calibration, "1", Repair(), calibration.held_out)
    torch.testing.assert_close(merged, adapted, rtol=1e-4, atol=1e-5)
    assert (plain - adapted).abs().max() > 1e-2


def test_rslora_scales_by_the_root_of_the_rank():
    from searcher.healing.adapters import AdapterOptions

    assert AdapterOptions(16, 8.0).scale == 0.5
    assert AdapterOptions(16, 8.0, rslora=True).scale == 2.0


def test_only_the_modules_that_are_named_are_adapted():
    calibration = calibration_of("llama")
    names = heal(calibration, "1", replace(SMALL, target_modules="q_proj+mlp")).added
    assert {name.split(".")[-2] for name in names} == {"q_proj", "gate_proj", "up_proj", "down_proj"}
    with pytest.raises(UsageError, match="'w_proj' is no linear layer") as error:
        heal(calibration, "1", replace(SMALL, target_modules="q_proj+w_proj"))
    assert "k_proj" in str(error.value.hint)


def test_norms_are_trained_when_asked():
    calibration = calibration_of("llama")
    repair = heal(calibration, "1,2.ffn", replace(SMALL, norms=True))
    assert repair.added
    assert set(repair.weights) == set(find_norms(calibration.replay, PLAN, [0, 2, 3]))
    assert all("norm" in name for name in repair.weights)
    own = dict(calibration.replay.model.named_parameters())
    assert any(not torch.equal(weight, own[name]) for name, weight in repair.weights.items())


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mixtral"])
def test_full_trains_every_weight_of_the_blocks_that_stay(family):
    calibration = calibration_of(family)
    with left_as_it_was(calibration):
        repair = heal(calibration, "1", Full(steps=8, batch=4, lr=1e-3, loss="kl"))
    own = dict(calibration.replay.model.named_parameters())
    blocks = calibration.replay.architecture.blocks
    inside = {id(p) for b in (0, 2, 3) for p in blocks[b].parameters()}
    assert set(repair.weights) == {name for name, p in own.items() if id(p) in inside}
    with torch.inference_mode():
        assert calibration.loss(PrunePlan.parse("1"), repair) != calibration.loss(PrunePlan.parse("1"), Repair())


def test_full_goes_on_with_what_it_learnt():
    calibration = calibration_of("llama")
    first = heal(calibration, "0", Full(steps=3, batch=2, lr=1e-2, where="after", patience=0))
    both = heal(calibration, "0,2", Full(steps=6, batch=2, lr=1e-2, where="after", patience=0, iterative=True))
    assert all(torch.equal(both.weights[name], weight) for name, weight in first.weights.items())


def test_the_way_through_memory():
    need = Need(fixed=100, window=1000, state=10, block=50, blocks=20)
    assert need.of(Passes(4, False)) == 100 + 4 * 1050
    assert need.of(Passes(4, True)) == 100 + 4 * (200 + 100)
    assert need.of(Passes(1, True)) < need.of(Passes(4, True)) < need.of(Passes(4, False))


def passes_in(calibration, room):
    _, trained, _ = student_of(calibration, Loss(text=1))
    return plan_passes(replace(calibration, room=room), PLAN, trained, 4, "lora")[0]


def test_memory_decides_what_is_kept_for_the_way_back():
    calibration = calibration_of("llama")
    _, trained, _ = student_of(calibration, Loss(text=1))
    need = training_room.measure_need(calibration, PLAN, trained)
    assert need.window > need.state * 10
    expected = [Passes(4, False), Passes(4, True), Passes(1, True)]
    assert [passes_in(calibration, need.of(way)) for way in expected] == expected
    with pytest.raises(UsageError, match="Memory is not enough to heal by lora"):
        passes_in(calibration, need.of(expected[-1]) - 1)


def test_what_autograd_keeps_is_counted():
    """Against the tensors that a forward pass really leaves for the way back."""
    calibration = calibration_of("llama")
    student, trained, _ = student_of(calibration, Loss(text=1))
    kept = {}

    def note(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), torch.enable_grad(), trained.in_place():
        weights = {t.untyped_storage().data_ptr() for t in calibration.replay.model.parameters()}
        student._run(calibration.fit[:1], False)
    whole = sum(size for place, size in kept.items() if place not in weights)
    assert training_room.measure_need(calibration, PLAN, trained).window == pytest.approx(whole, rel=0.3)


@pytest.mark.parametrize(
    ("family", "name"),
    [("llama", "layer"), ("llama", "ffn"), ("llama", "swiglu"), ("gemma2", "layer"), ("gpt2", "layer")],
)
def test_modules_in_gaps_are_trained_end_to_end(family, name):
    checks = []
    calibration = calibration_of(family, watch=checks.append)
    healing = make("healing", name, {"steps": 20, "loss": "kl", "lr": 1e-2, "patience": 0})
    with left_as_it_was(calibration):
        repair = heal(calibration, "1-2", healing)
    assert list(repair.after) == [(2, Action.GONE)]
    assert min(check.held_out for check in checks) < checks[0].held_out
    assert all(not p.requires_grad for one in repair.after.values() for p in one.module.parameters())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"temperature": "2"}, "temperature is not of loss=local"),
        ({"loss": "kl", "error": "relative"}, "error=relative is of loss=local"),
        ({"loss": "klm"}, "'klm'"),
    ],
)
def test_options_of_another_loss_are_refused(options, said):
    with pytest.raises(UsageError, match=said):
        make("healing", "layer", options)


class KilledError(Exception):
    """Stands for the end of the process."""


def killing_after(writes, monkeypatch):
    """Ends the fit as soon as it has been written down so many times."""
    count = itertools.count(1)

    def keep(*args):
        unfinished.keep_fit(*args)
        if next(count) == writes:
            raise KilledError

    monkeypatch.setattr(training, "keep_fit", keep)


@pytest.mark.parametrize(
    ("healing", "kills"),
    [
        (replace(SMALL, steps=12), (5,)),
        (replace(SMALL, steps=12), (8,)),
        (replace(SMALL, steps=12, loss="kl+hidden", norms=True), (3, 4)),
        (replace(SMALL, steps=12, iterative=True), (3, 4)),
        (replace(SMALL, steps=12, iterative=True), (8,)),
        (Full(steps=12, batch=2, loss="kl", patience=0), (3, 4)),
        (make("healing", "ffn", {"steps": "12", "patience": "0"}), (3, 4)),
        (make("healing", "layer", {"steps": "12", "loss": "hidden", "patience": "0"}), (8,)),
    ],
    ids=["early", "late", "distilled", "iterative", "iterative, late", "full", "ffn", "layer, end to end"],
)
def test_a_killed_fit_goes_on_with_the_same_bits(healing, kills, tmp_path, monkeypatch):
    monkeypatch.setattr(unfinished, "EVERY", 0.0)
    monkeypatch.setattr(unfinished, "WRITING", 0)
    plan = "1,3"
    whole = heal(calibration_of("llama", torch.bfloat16), plan, healing)
    for writes in kills:
        killing_after(writes, monkeypatch)
        with pytest.raises(KilledError):
            heal(calibration_of("llama", torch.bfloat16, unfinished=tmp_path), plan, healing)
    seen = []
    killing_after(0, monkeypatch)
    calibration = calibration_of("llama", torch.bfloat16, unfinished=tmp_path, watch=seen.append)
    assert_same(whole, heal(calibration, plan, healing))
    assert seen[0].step > 0  # it did not begin anew


def assert_same(one, other):
    assert one.added.keys() == other.added.keys()
    assert one.weights.keys() == other.weights.keys()
    for name, added in one.added.items():
        assert torch.equal(added.left, other.added[name].left)
        assert torch.equal(added.right, other.added[name].right)
    for name, weight in one.weights.items():
        assert torch.equal(weight, other.weights[name])
    for place, replacement in one.after.items():
        for name, value in replacement.module.state_dict().items():
            assert torch.equal(value, other.after[place].module.state_dict()[name])


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nonsense", b"\x80\x04"], ids=["empty", "zip", "pickle"])
def test_a_damaged_file_of_a_fit_is_left_aside(content, tmp_path):
    (tmp_path / "unfinished-0.pt").write_bytes(content)
    whole = heal(calibration_of("llama"), "1", SMALL)
    assert_same(whole, heal(calibration_of("llama", unfinished=tmp_path), "1", SMALL))


def test_a_loss_that_is_no_number_ends_with_one_line(monkeypatch):
    calibration, calls = calibration_of("llama"), itertools.count(1)
    original = EndToEnd.backward
    monkeypatch.setattr(
        EndToEnd, "backward", lambda self, rows: float("nan") if next(calls) == 7 else original(self, rows)
    )
    with pytest.raises(UsageError, match=r"diverged at step 6 \(loss nan\)"):
        heal(calibration, "1", replace(SMALL, steps=10))


@given(st.lists(st.integers(0, 15), min_size=1, max_size=6))
def test_targets_are_the_same_in_any_company(rows):
    calibration = CALIBRATION
    with torch.no_grad():
        targets = dense_targets.DenseTargets(calibration, Loss(kl=1, hidden=1), [0, 3])
        together, alone = targets.of("fit", rows), [targets.of("fit", [row]) for row in rows]
    for position, one in enumerate(alone):
        assert torch.equal(together.soft.mean_rows[position], one.soft.mean_rows[0])
        assert torch.equal(together.states[3][position], one.states[3][0])


CALIBRATION = calibration_of("llama")


def test_a_search_leaves_room_for_what_will_heal_its_best_plans():
    from searcher.evaluation.memory import Room
    from searcher.evaluation.open_executor import leave_room
    from searcher.healing.healer import Healer
    from searcher.loading.heal_text import HealText

    def healer(spec):
        text = HealText(spec, CALIBRATION.fit, CALIBRATION.held_out)
        return Healer(text, CALIBRATION.replay, CALIBRATION.prices)

    lora = healer("lora:rank=2")
    needed = lora.memory(1 << 40)
    assert needed > 1 << 20
    assert leave_room(Room(2, 3 * needed), lora) == (Room(2, needed), needed)
    fewer, fit = leave_room(Room(2, needed + 1), lora)
    assert fewer.evaluators in (1, 2)
    assert fewer.kept + fewer.evaluators * fit == needed + 1
    with pytest.raises(UsageError, match="Memory is not enough to heal by lora"):
        leave_room(Room(2, 1000), lora)
    assert leave_room(Room(2, 1000), healer("bias")) == (Room(2, 1000), None)
    assert leave_room(Room(2, 1000), healer("layer")) == (Room(2, 1000), None)
    assert leave_room(Room(2, 1000), None) == (Room(2, 1000), None)

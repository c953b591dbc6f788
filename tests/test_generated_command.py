"""Text that the model writes itself, to heal on and to measure on, as a user asks for it."""

import json
import multiprocessing
import os
import signal
import time

import pytest
import torch

from searcher.errors import UsageError
from searcher.loading.model import load_model
from searcher.replay import own_text
from searcher.replay.own_text import write_text
from searcher.runs.generated import Generated, parse_generated


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A cache of the test's own."""
    monkeypatch.setenv("SEARCHER_CACHE_LIMIT", "1GiB")
    monkeypatch.setenv("SEARCHER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def model(tiny):
    return load_model(str(tiny / "model"), dtype="float32", device="cpu")


def document(done):
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_the_same_seed_gives_the_same_text_and_a_longer_one_goes_on_from_it(model):
    state = torch.random.get_rng_state()
    one, again, longer, other = (
        write_text(wanted, model, 12) for wanted in map(Generated, (5, 5, 18, 5), (0, 0, 0, 1))
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    assert one == again
    assert longer.documents[:5] == one.documents
    assert len(set(longer.documents)) == 18  # batches differ
    assert one.documents != other.documents
    lengths = [len(model.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in longer.documents]
    assert min(lengths) >= 12


def test_it_is_sampled_from_the_models_distribution_whatever_its_settings_say(model, monkeypatch):
    """Of many rows that begin alike, the second token comes as often as the model says."""
    begin, rows = torch.tensor([5]), 4000
    monkeypatch.setattr(model.model.generation_config, "top_k", 1)
    monkeypatch.setattr(model.model.generation_config, "repetition_penalty", 50.0)
    drawn = own_text._write(model, begin, rows, 2, (0, 0))[:, 1]
    assert model.model.generation_config.top_k == 1
    ends = model.model.generation_config.eos_token_id
    logits = model.model(input_ids=begin[None]).logits[0, -1]
    if ends is not None:
        logits[ends] = -torch.inf
    expected = logits.softmax(-1)
    found = torch.bincount(drawn, minlength=len(expected)) / rows
    assert (found - expected).abs().max() < 5 * (expected.max() / rows).sqrt()


def test_the_second_time_the_model_does_not_run(model, kept, monkeypatch):
    first = write_text(Generated(5), model, 12)
    monkeypatch.setattr(type(model.model), "forward", None)
    assert write_text(Generated(5), model, 12) == first
    with pytest.raises(UsageError, match="cannot write text"):
        write_text(Generated(40), model, 12)


def _killed_in_the_middle(tiny):
    loaded = load_model(str(tiny / "model"), dtype="float32", device="cpu")
    write_text(Generated(10**6), loaded, 12)


@pytest.mark.slow  # a process of its own
def test_a_kill_leaves_the_cache_whole(tiny, model, kept, tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=_killed_in_the_middle, args=(tiny,))
    process.start()
    while not list(tmp_path.glob("cache/dense/**/output.pkl")):
        assert process.is_alive()
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    told = []
    found = write_text(Generated(40), model, 12, told.append)
    assert not [one for one in told if "cannot" in one]
    (tmp_path / "cache").rename(tmp_path / "other")
    assert write_text(Generated(40), model, 12) == found


def test_a_cache_that_is_wrong_is_not_used(model, monkeypatch):
    right = write_text(Generated(4), model, 12)
    monkeypatch.setattr(own_text, "_cache_is_right", lambda *_: False)
    assert write_text(Generated(4), model, 12) == right  # slower
    monkeypatch.undo()
    forward = type(model.model.model.layers[0].self_attn).forward

    def forgetful(self, *args, past_key_values=None, **options):
        return forward(self, *args, past_key_values=None, **options)

    monkeypatch.setattr(type(model.model.model.layers[0].self_attn), "forward", forgetful)
    assert not own_text._cache_is_right(model, torch.tensor([[5], [6]]))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("generated:160", Generated(160)),
        ("generated:2:7", Generated(2, 7)),
        ("generated", None),
        ("./generated:160", None),
    ],
)
def test_how_it_is_asked_for(text, found):
    assert parse_generated(text) == found


HEAL = ("heal", "--plan", "1-2", "--heal", "bias", "--format", "json")


def test_healing_on_what_the_model_wrote(searcher_command, tmp_path):
    found = document(searcher_command(*HEAL, "--heal-data", "generated:10"))
    assert (found["heal_text"], found["heal_windows"], found["text"]) == ("generated:10", 10, "text.jsonl")
    (healed,) = found["healings"]
    assert healed["dropped"] is (healed["held_out"]["after"] >= healed["held_out"]["before"])
    assert document(searcher_command(*HEAL, "--heal-data", "generated:10")) == found  # kept, seconds and all
    assert document(searcher_command(*HEAL, "--heal-data", "generated:10:1"))["healings"] != found["healings"]
    options = ("--heal", "bias", "--heal-data", "generated:10")
    run = document(searcher_command("run", "--strategy", "greedy", "--budget", "1", *options, "--format", "json"))
    done = searcher_command("export", run["run"], "-o", "out", "--no-check", defaults=False)
    assert done.code == 0, done.err


def test_it_is_measured_on_in_three_parts(searcher_command, tiny):
    options = {"--windows": 4, "--window-tokens": 16, "--report-windows": 32, "--dtype": "float32", "--device": "cpu"}
    given = ["--model", tiny / "model", *[text for pair in options.items() for text in pair]]
    arguments = ("evaluate", *given, "--plan", "1", "--format", "json", "--data")
    found = document(searcher_command(*arguments, "generated:120", defaults=False))
    assert found["evaluations"][0]["values"]["perplexity"] > 1
    short = searcher_command(*arguments, "generated:20", defaults=False)
    assert short.code == 2
    assert "The report split is too short for 32 windows" in short.err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("generated:0", "is too little"),
        ("generated:1", "is too little"),
        ("generated:x", "does not say how many windows"),
        ("generated:-3", "does not say how many windows"),
        ("generated:", "does not say how many windows"),
        ("generated:5:x", "does not say how many windows"),
        ("generated:5:99999999999", "seed"),
    ],
)
def test_what_cannot_be_generated_is_refused_before_the_model_loads(searcher_command, text, told):
    arguments = ("--plan", "1", "--model", "nowhere.gguf")
    for done in (
        searcher_command("heal", *arguments, "--heal-data", text, defaults=False),
        searcher_command("evaluate", *arguments, "--data", text, defaults=False),
    ):
        assert done.code == 2
        assert told in done.err
        assert "Traceback" not in done.err


def test_streamed_weights_do_not_write(searcher_command):
    done = searcher_command(
        "heal", "--plan", "1", "--heal", "bias", "--heal-data", "generated:4", "--weights", "streamed"
    )
    assert done.code == 2
    assert "cannot write text while its weights are streamed" in " ".join(done.err.split())

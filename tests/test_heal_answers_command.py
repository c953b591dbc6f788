"""`--heal-answers`: learning from the answers of chats alone, as a user asks for it."""

import json
import random

import pytest
from tiny_checkpoint import OPTIONS

from searcher.testing import tiny_tokenizer

LORA = "lora:batch=2,lr=0.01,rank=2,steps=4"
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"


def document(done):
    assert done.code == 0, done.err
    return json.loads(done.out)


@pytest.fixture
def heal(searcher_command, tiny, tmp_path):
    """Calls `searcher heal` on the tiny checkpoint with a chat template; `chats.jsonl` is there to heal on."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    (tmp_path / "model").mkdir()
    for file in (tiny / "model").iterdir():
        (tmp_path / "model" / file.name).symlink_to(file)
    for path in (tmp_path / "model").glob("*token*"):
        path.unlink()
    tokenizer.save_pretrained(tmp_path / "model")
    rng = random.Random(3)
    said = ["".join(rng.choices("abcdefghijklm nopqrstuvwxyz", k=40)) for _ in range(160)]
    rows = [
        [{"role": ("user", "assistant")[i % 2], "content": one} for i, one in enumerate(said[n : n + 4])]
        for n in range(0, 160, 4)
    ]
    (tmp_path / "chats.jsonl").write_text("\n".join(json.dumps({"messages": row}) for row in rows))
    options = [
        text for name in ("window_tokens", "dtype", "device") for text in (f"--{name.replace('_', '-')}", OPTIONS[name])
    ]
    given = ["--model", "model", "--data", tiny / "text.jsonl", *options, "--heal-windows", 16, "--format", "json"]

    def call(*arguments, command=("heal", "--plan", "1-2")):
        return searcher_command(*command, *given, *arguments, defaults=False)

    return call


def test_another_loss_and_another_repair(heal, tmp_path):
    arguments = ("--heal", LORA, "--heal-data", "chats.jsonl")
    every, answers = document(heal(*arguments)), document(heal(*arguments, "--heal-answers"))
    assert answers["before"] == every["before"]
    (of_all,), (of_answers,) = every["healings"], answers["healings"]
    assert of_answers["held_out"]["before"] != of_all["held_out"]["before"]
    assert of_answers["report"] != of_all["report"]
    assert document(heal(*arguments, "--heal-answers")) == answers
    assert len(list((tmp_path / "runs/healed").iterdir())) == 4


def test_healings_that_fit_hidden_states_say_so_or_are_refused(heal):
    both = heal("--heal", LORA, "--heal", "bias", "--heal-data", "chats.jsonl", "--heal-answers")
    assert both.code == 0, both.err
    assert "bias fits hidden states, of all tokens" in " ".join(both.err.split())
    for command in (("heal", "--plan", "1"), ("evaluate", "--plan", "1"), ("run", "--budget", "1")):
        refused = heal("--heal", "bias", "--heal-data", "chats.jsonl", "--heal-answers", command=command)
        assert refused.code == 2
        assert "--heal-answers is for healings that learn to predict tokens" in " ".join(refused.err.split())


@pytest.mark.parametrize("text", [[], ["--heal-data", "generated:10"]])
def test_text_that_is_no_chat_is_refused(heal, text):
    done = heal("--heal", LORA, "--heal-answers", *text)
    assert done.code == 2
    assert "holds none" in " ".join(done.err.split())


def test_without_healing_it_is_refused(searcher_command):
    done = searcher_command("export", "--plan", "1", "--heal-answers", "-o", "out")
    assert done.code == 2
    assert "--heal-answers is for healing, but nothing is healed" in " ".join(done.err.split())

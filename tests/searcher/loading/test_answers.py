"""Answers of chats: found in what a template writes, in the tokens of windows, and in what is learnt from."""

import json

import pytest
import torch
from calibrations import calibration_of
from hypothesis import given, settings
from hypothesis import strategies as st

from searcher.errors import UsageError
from searcher.healing.calibration import PADDING
from searcher.loading.chat import Conversation
from searcher.loading.chat_template import ChatTemplate
from searcher.loading.heal_text import cut_heal_texts
from searcher.loading.text import read_texts
from searcher.plan import PrunePlan
from searcher.repair import Repair
from searcher.testing import tiny_tokenizer

PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
TRIMMED = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}\n{% endfor %}"
MARKED = (
    "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{% endgeneration %}{% else %}{{ m.content }}{% endif %}\n{% endfor %}"
)


def template(text):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = text
    return tokenizer, ChatTemplate(lambda: tokenizer, "tiny")


def chat(*contents, roles=("user", "assistant")):
    return Conversation(
        tuple({"role": roles[i % len(roles)], "content": one} for i, one in enumerate(contents)), "line 1"
    )


def answered(chat_template, conversation):
    text = chat_template.render(conversation)
    return [text[start:end] for start, end in chat_template.answers(conversation)]


CONTENTS = st.lists(st.text("as>< \n{}userti1", max_size=12), min_size=1, max_size=5)


@given(CONTENTS, st.sampled_from([PLAIN, TRIMMED]))
@settings(max_examples=60, deadline=None)
def test_answers_are_found_whatever_they_and_the_questions_say(contents, text):
    """Short answers stand in the roles' names too, and questions may be written like the template's own words."""
    expected = [one.strip() if text == TRIMMED else one for one in contents[1::2]]
    assert answered(template(text)[1], chat(*contents)) == expected


def test_a_template_that_marks_answers_is_believed():
    found = answered(template(MARKED)[1], chat("hi", "a", "so?", "no way"))
    assert "".join(found).replace(" ", "") == "anoway"


def test_the_token_that_ends_the_turn_belongs_to_the_answer():
    tokenizer, written = template("{% for m in messages %}<{{ m.role }}>{{ m.content }}[END]\n{% endfor %}")
    assert answered(written, chat("hi", "yes")) == ["yes"]
    tokenizer.add_special_tokens({"eos_token": "[END]"})
    assert answered(written, chat("hi", "yes")) == ["yes[END]"]


@pytest.mark.parametrize(
    "text",
    [
        "{% for m in messages %}{{ m.content | upper }}{% endfor %}",
        "{% for m in messages | reverse %}{{ m.content }}|{% endfor %}",
        "{{ messages[0].content }}",
    ],
)
def test_a_template_that_rewrites_messages_is_refused(text):
    with pytest.raises(UsageError, match="line 1: the answers cannot be found"):
        template(text)[1].answers(chat("hi", "yes"))


def write(path, rows):
    path.write_text("\n".join(json.dumps({"messages": list(one.messages)}) for one in rows))
    return (str(path),)


def texts(tmp_path, text=PLAIN, rows=40):
    """Chats of which every question is of letters a to m, every answer of letters n to z."""
    generator = torch.Generator().manual_seed(1)

    def words(first):
        letters = torch.randint(13, (30,), generator=generator).tolist()
        return "".join(chr(ord(first) + one) for one in letters)

    tokenizer, written = template(text)
    path = write(tmp_path / "chats.jsonl", [chat(*(words("an"[i % 2]) for i in range(4))) for _ in range(rows)])
    return tokenizer, read_texts(path, written.render, None, written.answers).split()


def test_windows_know_which_of_their_tokens_are_of_answers(tmp_path):
    tokenizer, found = texts(tmp_path)
    heal = cut_heal_texts(found, tokenizer, tokens=16, count=20, fewer=True, spec="x", answers=True)
    plain = cut_heal_texts(found, tokenizer, tokens=16, count=200, fewer=True, spec="x")
    assert plain.fit_scored is None
    only_answers = torch.tensor(tokenizer.convert_tokens_to_ids(list("opqvwxyz")))  # neither has a role's name
    only_questions = torch.tensor(tokenizer.convert_tokens_to_ids(list("bcdfghjklm")))
    for ids, scored in ((heal.fit, heal.fit_scored), (heal.held_out, heal.held_out_scored)):
        assert scored.shape == ids.shape
        assert scored.dtype == torch.bool
        assert scored[:, 1:].any(dim=1).all()  # no window teaches nothing
        assert not scored[torch.isin(ids, only_questions)].any()
        assert scored[torch.isin(ids, only_answers)].all()
    assert set(map(tuple, heal.fit.tolist())) <= set(map(tuple, torch.cat([plain.fit, plain.held_out]).tolist()))


def test_labels_and_the_held_out_loss_leave_out_the_rest():
    plain = calibration_of("llama")
    plan = PrunePlan.parse("1")
    masks = [
        torch.rand(ids.shape, generator=torch.Generator().manual_seed(i)) < 0.3
        for i, ids in enumerate((plain.fit, plain.held_out))
    ]
    scored = calibration_of("llama", fit_scored=masks[0], held_out_scored=masks[1])
    rows = torch.tensor([3, 0, 7])
    assert torch.equal(plain.labels(rows), plain.fit[rows])
    labels = scored.labels(rows)
    assert torch.equal(labels == PADDING, ~masks[0][rows])
    assert torch.equal(labels[masks[0][rows]], plain.fit[rows][masks[0][rows]])
    with torch.inference_mode():
        ((_, hidden),) = plain.replay.states(plain.held_out, [plan])
        losses = plain.replay.head.losses(hidden, plain.held_out)
        assert scored.loss(plan, Repair()) == pytest.approx(losses[masks[1][:, 1:]].mean().item(), rel=1e-5)
        assert plain.loss(plan, Repair()) == pytest.approx(losses.mean().item(), rel=1e-5)

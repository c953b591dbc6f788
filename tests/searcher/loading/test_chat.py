"""Chats: read, checked, and written as text by a template."""

import json
import re

import pytest

from searcher.errors import UsageError
from searcher.loading import sources
from searcher.loading.chat_template import ChatTemplate
from searcher.loading.sources import read_documents
from searcher.loading.text import load_texts
from searcher.testing import tiny_tokenizer

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
PARTS = ("search", "heal", "report")


def render(template=TEMPLATE):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return ChatTemplate(lambda: tokenizer, "tiny").render


def said(*contents, roles=("user", "assistant")):
    return [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]


def write(path, rows):
    path.write_text("\n".join(json.dumps({"messages": row}) for row in rows))
    return str(path)


def test_chats_of_every_format_are_written_by_the_template(tmp_path):
    from datasets import Dataset

    rows = [said("hi", "hello there"), said("bye")]
    dataset = Dataset.from_list([{"messages": row} for row in rows])
    dataset.to_parquet(tmp_path / "a.parquet")
    dataset.save_to_disk(tmp_path / "saved")
    write(tmp_path / "a.jsonl", rows)
    for name in ("a.jsonl", "a.parquet", "saved"):
        source = read_documents(str(tmp_path / name), render())
        assert source.documents == ("<user>hi\n<assistant>hello there\n", "<user>bye\n")
        assert source.said == ("hi\nhello there", "bye")


def test_a_row_with_text_is_text(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "as it is", "messages": said("hi")}))
    assert read_documents(str(tmp_path / "a.jsonl")).documents == ("as it is",)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "line 2: 'messages' is empty"),
        ("hi", "line 2: 'messages' is no list, but a string (hi)"),
        (["hi"], "line 2: message 1 is no object, but a string (hi)"),
        ([*said("hi"), {"content": "x"}], "line 2: message 2 has no 'role'"),
        ([{"role": "user"}], "line 2: message 1 has no 'content'"),
        ([{"role": "user", "content": None}], "line 2: the content of message 1 is no text, but null"),
        ([{"role": "user", "content": [{"type": "image"}]}], "line 2: the content of message 1 is no text, but a list"),
        ([{"role": 1, "content": "x"}], "line 2: the role of message 1 is no text, but an integer (1)"),
    ],
)
def test_bad_rows_are_named(tmp_path, messages, message):
    path = write(tmp_path / "a.jsonl", [said("hi"), messages])
    with pytest.raises(UsageError, match=re.escape(message)) as error:
        read_documents(path, render())
    assert "a.jsonl" in error.value.message
    assert "\n" not in error.value.message


def test_texts_and_chats_are_not_mixed_in_one_file(tmp_path):
    text, chat = {"text": "x"}, {"messages": said("hi")}
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, [text, chat])))
    with pytest.raises(UsageError, match=r"line 2 is a chat, but 'a\.jsonl' began with text"):
        read_documents(str(tmp_path / "a.jsonl"), render())
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, [chat, text])))
    with pytest.raises(UsageError, match="row 2 is text, but the ones before are chats"):
        read_documents(str(tmp_path / "a.jsonl"), render())


def test_a_tokenizer_without_a_template_is_refused(tmp_path):
    path = write(tmp_path / "a.jsonl", [said("hi")])
    with pytest.raises(UsageError, match="the tokenizer of tiny has no chat template"):
        read_documents(path, render(None))
    with pytest.raises(UsageError, match="need a model's template"):
        read_documents(path)


def test_what_a_template_refuses_is_named_by_its_row(tmp_path):
    path = write(tmp_path / "a.jsonl", [said("hi"), said("x", roles=("robot",))])
    strict = "{% if messages[0].role != 'user' %}{{ raise_exception('Roles must be known') }}{% endif %}ok"
    with pytest.raises(UsageError, match=r"line 2: the chat template of tiny .* \(Roles must be known\)"):
        read_documents(path, render(strict))


def test_the_tokenizer_is_loaded_once_and_only_for_chats(tmp_path):
    loads = []

    def load():
        loads.append(1)
        tokenizer = tiny_tokenizer()
        tokenizer.chat_template = TEMPLATE
        return tokenizer

    (tmp_path / "a.txt").write_text("some text")
    template = ChatTemplate(load, "tiny")
    read_documents(str(tmp_path / "a.txt"), template.render)
    assert not loads
    read_documents(write(tmp_path / "a.jsonl", [said("hi")] * 3), template.render)
    assert len(loads) == 1


def test_bos_stands_once_where_windows_begin_with_it(tmp_path):
    from tokenizers.processors import TemplateProcessing

    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "[BOS]"})
    tokenizer.chat_template = "{{ bos_token }}" + TEMPLATE
    path = write(tmp_path / "a.jsonl", [said("hi")])
    written = ChatTemplate(lambda: tokenizer, "tiny").render
    assert read_documents(path, written).documents == ("[BOS]<user>hi\n",)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="[BOS] $A", special_tokens=[("[BOS]", 95)])
    assert read_documents(path, written).documents == ("<user>hi\n",)


SYSTEM = {"role": "system", "content": " ".join(f"rule{i}" for i in range(40))}


def test_a_system_message_of_all_chats_does_not_join_them(tmp_path):
    rows = [[SYSTEM, *said(f"question{i}", " ".join(f"a{i}x{j}" for j in range(30)))] for i in range(20)]
    (text,) = load_texts((write(tmp_path / "a.jsonl", rows),), render()).members
    documents = [d for part in PARTS for d in getattr(text, part)]
    assert len(documents) == 20
    assert all(d.startswith("<system>rule0") and d.count("<") == 3 for d in documents)  # whole chats
    assert all(len(getattr(text, part)) >= 4 for part in PARTS)


def test_chats_that_share_an_answer_stay_together_and_equal_ones_come_once(tmp_path):
    answer = " ".join(f"same{j}" for j in range(25))
    alike = [said(f"q{i}", f"{answer} {i}") for i in range(6)]
    others = [said(f"p{i}", " ".join(f"a{i}x{j}" for j in range(30))) for i in range(30)]
    (text,) = load_texts((write(tmp_path / "a.jsonl", [*alike, *others, *others]),), render()).members
    holding = [part for part in PARTS if any("same0" in d for d in getattr(text, part))]
    assert len(holding) == 1
    assert sum(len(getattr(text, part)) for part in PARTS) == 36


def test_the_fingerprint_is_of_what_the_template_writes(tmp_path):
    path = write(tmp_path / "a.jsonl", [said(f"q{i}", " ".join(f"a{i}x{j}" for j in range(30))) for i in range(9)])
    one, other = (load_texts((path,), render(t)).fingerprint for t in (TEMPLATE, f"{TEMPLATE}."))
    assert one != other
    assert load_texts((path,), render()).fingerprint == one


def test_too_many_chats_are_left_out_whole(tmp_path, monkeypatch):
    path = write(tmp_path / "a.jsonl", [said("12345678")] * 3)
    monkeypatch.setattr(sources, "MAX_CHARACTERS", 35)
    source = read_documents(path, render())
    assert source.documents == ("<user>12345678\n",) * 2
    assert source.truncated

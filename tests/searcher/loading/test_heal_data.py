"""Text to heal on that is not the heal part of the text that plans are judged on."""

import json
import re

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from searcher.errors import UsageError
from searcher.loading.chat import Conversation
from searcher.loading.sources import Source
from searcher.loading.splits import RUN_WORDS
from searcher.loading.text import load_texts, split_sources

PIECES = st.lists(st.sampled_from(["one", "two", "Three", "four,", "five"]), min_size=15, max_size=25).map(" ".join)


@st.composite
def sources(draw):
    """One or two texts to measure on and one or two to heal on, put together from the same few pieces."""
    pieces = draw(st.lists(PIECES, min_size=3, max_size=12))
    document = st.lists(st.sampled_from(pieces), min_size=1, max_size=3).map("\n\n".join)
    texts = st.lists(st.lists(document, min_size=1, max_size=12).map(tuple), min_size=1, max_size=2, unique=True)
    return [[Source(f"{kind}{i}", one) for i, one in enumerate(draw(texts))] for kind in ("data", "heal")]


def runs(documents, words):
    return {
        tuple(found[i : i + RUN_WORDS]) for found in map(words, documents) for i in range(len(found) - RUN_WORDS + 1)
    }


@given(sources())
@settings(max_examples=40, deadline=None)
def test_nothing_is_healed_on_that_plans_are_chosen_or_judged_on(found):
    data, heal = found
    try:
        plain, texts = split_sources(data), split_sources(data, heal)
    except UsageError:  # twins, or all is shared
        reject()
    assert texts.members == plain.members  # what is measured does not depend on it
    assert texts.fingerprint == plain.fingerprint
    for words in (str.split, lambda text: re.findall(r"\w+", text.lower())):
        elsewhere = runs([d for text in texts.members for d in (*text.search, *text.report)], words)
        assert not elsewhere & runs([d for text in texts.healed_on for d in text.heal], words)


def own(name, count=12, words=60):
    """Documents that share nothing with those of another name."""
    return [" ".join(f"{name}{i}x{j}" for j in range(words)) for i in range(count)]


def write(path, documents):
    path.write_text("\n".join(json.dumps({"text": document}) for document in documents))
    return str(path)


def test_the_same_text_gives_its_heal_part_whatever_its_name(tmp_path):
    one, other = own("a", 30), own("b", 30)
    data = (write(tmp_path / "a.jsonl", one), write(tmp_path / "b.jsonl", other))
    again = write(tmp_path / "copy.jsonl", one)
    plain = load_texts(data)
    found = load_texts(data, heal_data=(again,))
    assert found.healed_on == (plain.members[0],)
    assert plain.healed_on == plain.members


def test_all_of_another_text_is_healed_on_but_what_it_shares(tmp_path):
    data, others = own("a", 30), own("b", 20)
    path = write(tmp_path / "a.jsonl", data)
    (member,) = load_texts((path,)).members
    mixed = write(tmp_path / "mixed.jsonl", [*others, *data])
    (found,) = load_texts((path,), heal_data=(mixed,)).healed_on
    assert sorted(found.heal) == sorted([*others, *member.heal])
    assert found.search == found.report == ()


def test_of_one_long_document_only_what_is_shared_goes(tmp_path):
    path = write(tmp_path / "a.jsonl", own("a", 30, words=200))
    (member,) = load_texts((path,)).members
    book = [" ".join([*own("b", 20, words=200), member.report[0], *own("c", 20, words=200)])]
    (found,) = load_texts((path,), heal_data=(write(tmp_path / "book.jsonl", book),)).healed_on
    assert len(" ".join(found.heal)) > 0.5 * len(book[0])
    assert not set(" ".join(found.heal).split()) >= set(member.report[0].split())


def test_the_fingerprint_is_of_what_is_healed_on(tmp_path):
    a, b, c = (write(tmp_path / f"{name}.jsonl", own(name)) for name in "abc")
    found = [load_texts((a,), heal_data=heal).heal_fingerprint for heal in (None, (b,), (c,), (b, c))]
    assert found[0] is None
    assert len(set(found)) == 4
    shared = write(tmp_path / "shared.jsonl", [*own("b"), *own("a")])
    here, there = (load_texts((data,), heal_data=(shared,)).heal_fingerprint for data in (a, c))
    assert here != there


def test_chats_are_compared_by_what_was_said(tmp_path):
    system = {"role": "system", "content": " ".join(f"rule{i}" for i in range(40))}

    def chats(name):
        rows = [[system, {"role": "user", "content": document}] for document in own(name)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps({"messages": row}) for row in rows))
        return (str(tmp_path / f"{name}.jsonl"),)

    def render(chat: Conversation) -> str:
        return "\n".join(message["content"] for message in chat.messages)

    (found,) = load_texts(chats("a"), render, chats("b")).healed_on
    assert len(found.heal) == 12  # the system message of all does not join them


def test_a_text_that_is_all_shared_is_refused(tmp_path):
    path = write(tmp_path / "a.jsonl", own("a", 30))
    (member,) = load_texts((path,)).members
    shared = write(tmp_path / "shared.jsonl", [*member.search, *member.report])
    with pytest.raises(UsageError, match=r"'shared\.jsonl' has runs of 20 words in common"):
        load_texts((path,), heal_data=(shared,))
    other = write(tmp_path / "other.jsonl", own("b", 30))
    with pytest.raises(UsageError, match="is the same text as"):
        load_texts((path,), heal_data=(other, other))

"""Windows of several texts: shared evenly, taking turns, each knowing its text and document."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from searcher.errors import UsageError
from searcher.loading.heal_text import cut_heal_text, cut_heal_texts
from searcher.loading.text import Text, Texts
from searcher.loading.text_windows import cut_text_windows, shares, take_turns
from searcher.loading.windows import PACKED, cut_windows
from searcher.testing import tiny_tokenizer

TOKENIZER = tiny_tokenizer()  # a token a character


def text(letter, documents=20):
    """Each document is three windows of eight tokens, which begin with its letter and number."""
    found = tuple(f"{letter}{i:02}....." * 3 for i in range(documents))
    return Text(f"{letter}.txt", letter, found, found, found)


def texts(letters):
    return Texts(tuple(text(letter) for letter in letters))


def cut(members, count=6, seed=0, split="search"):
    return cut_text_windows(members, TOKENIZER, tokens=8, count=count, split=split, option="--windows", seed=seed)


@given(st.integers(0, 50), st.integers(1, 9))
def test_shares_are_even_and_the_first_have_the_rest(count, number):
    found = shares(count, number)
    assert sum(found) == count
    assert found == sorted(found, reverse=True)
    assert max(found) - min(found) <= 1


@given(st.lists(st.integers(0, 7), min_size=1, max_size=5), st.none() | st.integers(0, 3))
def test_turns(lengths, seed):
    """Every item comes once, each list keeps its order, and in a start of any length no list is ahead by two."""
    found = take_turns([range(length) for length in lengths], None if seed is None else (seed,))
    for number, length in enumerate(lengths):
        assert [item for text, item in found if text == number] == list(range(length))
    for end in range(len(found) + 1):
        seen = Counter(number for number, _ in found[:end])
        open_lists = [seen[i] for i, length in enumerate(lengths) if seen[i] < length]
        assert not open_lists or max(seen.values(), default=0) - min(open_lists) <= 1


def test_which_text_comes_first_in_a_round_is_chance():
    firsts = Counter(take_turns([range(4)] * 3, (seed,))[3 * turn][0] for seed in range(200) for turn in range(4))
    assert all(200 < firsts[number] < 330 for number in range(3))  # of 800, each a third


@given(st.sampled_from(["ab", "abc", "abcd"]), st.integers(4, 20), st.none() | st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_every_window_knows_its_text_and_document(letters, count, seed):
    members = texts(letters)
    found = cut(members, count, seed)
    assert len(found.ids) == len(found.texts) == len(found.documents) == count
    assert [Counter(found.texts)[i] for i in range(len(letters))] == shares(count, len(letters))
    for ids, number, document in zip(found.ids, found.texts, found.documents, strict=True):
        window = "".join(TOKENIZER.convert_ids_to_tokens(ids.tolist()))
        assert window[:3] == f"{letters[number]}{document - 20 * number:02}"
    assert torch.equal(found.ids, cut(members, count, seed).ids)


def test_of_one_text_the_windows_are_what_they_were():
    member = text("a")
    for seed in (None, 3):
        plain = cut_windows(member.search, TOKENIZER, tokens=8, count=6, split="search", seed=seed)
        found = cut(Texts((member,)), seed=seed)
        assert torch.equal(plain.ids, found.ids)
        assert (plain.documents, plain.texts) == (found.documents, found.texts)
    heal = cut_heal_texts(Texts((member,)), TOKENIZER, tokens=8, count=20, fewer=False, spec="x")
    plain = cut_heal_text(member.heal, TOKENIZER, tokens=8, count=20, fewer=False, spec="x")
    assert torch.equal(heal.fit, plain.fit)
    assert torch.equal(heal.held_out, plain.held_out)


def test_healing_reads_and_holds_out_windows_of_every_text():
    found = cut_heal_texts(texts("abc"), TOKENIZER, tokens=8, count=31, fewer=False, spec="x")
    assert found.rows == 31
    for windows in (found.fit, found.held_out):
        letters = [TOKENIZER.convert_ids_to_tokens(row)[0] for row in windows[:, :1].tolist()]
        assert Counter(letters).keys() == set("abc")
        assert max(Counter(letters).values()) - min(Counter(letters).values()) <= 2
    assert len(found.documents) == len(found.held_out)
    assert {document // 20 for document in found.documents} == {0, 1, 2}
    fewer = cut_heal_texts(
        Texts((text("a"), text("b", documents=2))), TOKENIZER, tokens=8, count=40, fewer=True, spec="x"
    )
    assert fewer.rows == 20 + 6  # what the second one holds


def test_too_few_windows_and_too_short_a_text_are_refused():
    with pytest.raises(UsageError, match="3 texts need 3 search windows or more, 1 for each, but --windows is 2"):
        cut(texts("abc"), 2)
    with pytest.raises(UsageError, match="2 texts need 4 heal windows or more, 2 for each, but --heal-windows is 3"):
        cut_heal_texts(texts("ab"), TOKENIZER, tokens=8, count=3, fewer=False, spec="x")
    with pytest.raises(UsageError, match=r"The search split of b\.txt is too short for 5 windows of 8 tokens: 3 fit"):
        cut(Texts((text("a"), text("b", documents=1))), 10)


def test_windows_of_several_documents_stay_so():
    short = Text("b.txt", "b", ("b1", "b2", "b3", "b4") * 4, (), ())
    found = cut(Texts((text("a"), short)), 4)
    assert [document for document, number in zip(found.documents, found.texts, strict=True) if number] == [PACKED] * 2

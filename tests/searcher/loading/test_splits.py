"""Several texts in three parts, without a long run of words shared between parts of any two."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searcher.errors import UsageError
from searcher.loading.splits import split_documents, split_together
from searcher.loading.text import drop_repeats, load_text, load_texts

PARTS = ("search", "heal", "report")
PIECES = st.lists(st.sampled_from(["one", "two", "three", "four", "five"]), min_size=15, max_size=25).map(" ".join)


@st.composite
def texts_with_common_pieces(draw):
    """Two to four texts put together from the same few pieces."""
    pieces = draw(st.lists(PIECES, min_size=3, max_size=12))
    documents = st.lists(st.lists(st.sampled_from(pieces), min_size=1, max_size=3).map("\n\n".join), max_size=12)
    return [drop_repeats(one) for one in draw(st.lists(documents, min_size=2, max_size=4))]


def runs(documents, words):
    return {tuple(found[i : i + 20]) for found in map(words, documents) for i in range(len(found) - 19)}


def assert_disjoint(split):
    """No part shares a run with another part, whichever texts these are of."""
    together = {part: [document for parts in split for document in parts[part]] for part in PARTS}
    for words in (str.split, lambda text: re.findall(r"\w+", text.lower())):
        found = [runs(together[part], words) for part in PARTS]
        assert not any(found[i] & found[i - 1] for i in range(3))


@given(texts_with_common_pieces())
@settings(max_examples=60, deadline=None)
def test_no_run_is_shared_between_parts_of_any_texts(texts):
    split = split_together(texts)
    assert_disjoint(split)
    for parts, documents in zip(split, texts, strict=True):
        assert sorted(d for part in PARTS for d in parts[part]) == sorted(documents)


@given(texts_with_common_pieces(), st.randoms())
@settings(max_examples=40, deadline=None)
def test_the_order_of_the_texts_makes_no_difference(texts, random):
    order = list(range(len(texts)))
    random.shuffle(order)
    found = split_together(texts)
    assert split_together([texts[i] for i in order]) == [found[i] for i in order]


def own(name, count=12, words=60):
    """Documents that share nothing with those of another name."""
    return [" ".join(f"{name}{i}x{j}" for j in range(words)) for i in range(count)]


def test_texts_that_share_nothing_are_split_as_each_alone():
    texts = [own("a"), own("b", 30), own("c", 7)]
    assert split_together(texts) == [split_documents(documents) for documents in texts]


def test_one_text_is_split_as_it_always_was():
    """Which documents go where was recorded before there could be several texts."""
    documents = [" ".join(f"w{i * 7 % 11}_{j}" if j < 25 else f"w{i}_{j}" for j in range(60)) for i in range(30)]
    found = {part: [documents.index(d) for d in members] for part, members in split_documents(documents).items()}
    assert found == {
        "search": [2, 4, 6, 7, 13, 15, 17, 18, 24, 26, 28, 29],
        "heal": [1, 3, 5, 12, 14, 16, 23, 25, 27],
        "report": [0, 8, 9, 10, 11, 19, 20, 21, 22],
    }


def test_a_text_that_holds_another_is_split_like_it():
    small, large = own("a", 20), own("a", 20) + own("b", 20)
    one, other = split_together([small, large])
    for part in PARTS:
        assert set(one[part]) <= set(other[part])
        for found in (one, other):  # both near their shares
            assert sum(map(len, found[part])) > 0.15 * sum(
                map(len, [*found["search"], *found["heal"], *found["report"]])
            )


def write(path, documents):
    path.write_text("\n".join(json.dumps({"text": document}) for document in documents))
    return str(path)


def test_texts_have_one_name_and_one_fingerprint(tmp_path):
    a, b = write(tmp_path / "a.jsonl", own("a")), write(tmp_path / "b.jsonl", own("b"))
    both, turned = load_texts((a, b)), load_texts((b, a))
    assert (both.name, turned.name) == ("a.jsonl + b.jsonl", "b.jsonl + a.jsonl")
    assert both.members == tuple(load_text(one) for one in (a, b))
    assert len({texts.fingerprint for texts in (both, turned, load_texts((a,)), load_texts((b,)))}) == 4
    assert load_texts((a,)).fingerprint == load_text(a).fingerprint


def test_files_of_one_name_are_numbered_and_one_text_comes_once(tmp_path):
    for folder in "xyz":
        (tmp_path / folder).mkdir()
    x, y = (write(tmp_path / folder / "train.jsonl", own(folder)) for folder in "xy")
    assert load_texts((x, y)).names == ("train.jsonl (1)", "train.jsonl (2)")
    again = write(tmp_path / "z" / "copy.jsonl", own("x"))
    with pytest.raises(UsageError, match=r"'copy\.jsonl' is the same text as 'train\.jsonl'"):
        load_texts((x, again))


def test_of_several_texts_only_the_one_that_needs_it_is_cut_finer(tmp_path):
    rows = write(tmp_path / "rows.jsonl", own("a"))
    (tmp_path / "line.txt").write_text(" ".join(f"b{i}" for i in range(2000)))
    alone = [load_text(one) for one in (rows, str(tmp_path / "line.txt"))]
    assert all(getattr(alone[1], part) for part in PARTS)
    assert load_texts((rows, str(tmp_path / "line.txt"))).members == tuple(alone)

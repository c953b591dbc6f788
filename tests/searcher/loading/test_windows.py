import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from searcher.errors import UsageError
from searcher.loading.windows import PACKED, cut_windows
from searcher.testing import tiny_tokenizer

TOKENIZER = tiny_tokenizer()  # a token a character


def cut(documents, tokens=4, count=2, seed=None, tokenizer=TOKENIZER, split="search"):
    return cut_windows(documents, tokenizer, tokens=tokens, count=count, split=split, seed=seed)


def texts(windows):
    return ["".join(TOKENIZER.convert_ids_to_tokens(row)) for row in windows.ids.tolist()]


def with_bos():
    from tokenizers.processors import TemplateProcessing

    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "[BOS]"})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="[BOS] $A", special_tokens=[("[BOS]", 95)])
    return tokenizer


def test_windows_stay_inside_documents_where_these_are_long_enough():
    windows = cut(["abcdefghij", "xy", "klmnop"], count=3)
    assert texts(windows) == ["abcd", "efgh", "klmn"]
    assert windows.documents == (0, 0, 2)


def test_leftovers_and_short_documents_are_joined_only_when_needed():
    windows = cut(["abcdefghij", "xy", "klmnop"], count=4)
    assert texts(windows)[3] == "ijxy"
    assert windows.documents[3] == PACKED


@given(st.lists(st.text("abcdefgh", max_size=30), max_size=8), st.integers(2, 6), st.integers(0, 3))
@settings(deadline=None)
def test_windows_never_overlap(documents, tokens, seed):
    total = sum(map(len, documents))
    marked = []  # every character of the text gets an id of its own, so that taking one twice would show
    for document in documents:
        marked.append([len(marked) * 100 + i for i in range(len(document))])
    available = total // tokens

    def tokenizer(text, **_options):
        return {"input_ids": [0] if text == "a" else marked[int(text)]}

    tokenizer.bos_token_id = None
    for chosen in (seed, None):
        if available:
            try:
                ids = cut_windows(
                    [str(i) for i in range(len(documents))],
                    tokenizer, tokens=tokens, count=available, split="search", seed=chosen,
                ).ids.flatten().tolist()  # fmt: skip
            except UsageError:
                raise AssertionError("all windows that fit by length must fit") from None
            assert len(ids) == len(set(ids)) == available * tokens


def test_seeds_draw_and_none_spreads():
    documents = ["".join(chr(97 + (i * 7 + j) % 26) for j in range(8)) for i in range(40)]
    assert texts(cut(documents, count=5, seed=1)) == texts(cut(documents, count=5, seed=1))
    assert texts(cut(documents, count=5, seed=1)) != texts(cut(documents, count=5, seed=2))
    assert cut(documents, count=4).documents == (5, 15, 25, 35)


def test_bos_only_where_the_tokenizer_adds_it():
    assert cut(["abcdefgh"]).ids[0].tolist() == TOKENIZER.convert_tokens_to_ids(list("abcd"))
    tokenizer = with_bos()
    ids = cut(["abcdefgh"], tokenizer=tokenizer).ids
    assert ids.dtype == torch.int64
    assert ids[:, 0].tolist() == [95, 95]
    assert ids[:, 1:].tolist() == [tokenizer.convert_tokens_to_ids(list(text)) for text in ("abc", "def")]


def test_too_short_a_text_says_how_many_windows_fit():
    with pytest.raises(UsageError, match="report split is too short for 9 windows of 4 tokens: 3 fit") as error:
        cut(["abcdefghij", "xy"], count=9, split="report")
    assert "--window-tokens" in str(error.value)
    with pytest.raises(UsageError, match="0 fit"):
        cut([], count=1)


def test_the_hint_names_the_options_to_lower():
    with pytest.raises(UsageError) as error:
        cut(["abcd"], count=2)
    for option in ("--windows", "--report-windows", "--window-tokens", "--data"):
        assert option in error.value.hint


@pytest.mark.parametrize("tokens", [1, 0, -1])
def test_windows_without_a_token_to_predict_are_refused(tokens):
    with pytest.raises(UsageError, match=f"Windows of {tokens} tokens hold nothing to predict"):
        cut(["abcdefgh"], tokens=tokens)


@pytest.mark.parametrize("count", [0, -1])
def test_fewer_than_one_window_is_refused(count):
    with pytest.raises(UsageError, match=f"^{count} windows of the search split"):
        cut(["abcdefgh"], count=count)

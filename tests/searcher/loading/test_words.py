"""A measure of text that works in every script."""
# ruff: noqa: RUF001

import pytest
from hypothesis import given
from hypothesis import strategies as st

from searcher.loading.words import count_words, cut_words, find_units

SCRIPTS = {
    "English": "the quick brown fox, it's here",
    "Arabic": "النص العربي يفصل بين الكلمات",
    "Hindi": "हिन्दी में शब्द अलग होते हैं",
    "Korean": "한국어는 낱말 사이를 띄어 쓴다",
    "emoji": "so 😀 great👍🏽 👩‍👩‍👧",
}
MIXED = st.text(st.sampled_from("ab Z,.é\n\t  你好，。カｱ한글ไทยกำ้ل😀\u200d\u3000"), max_size=120)


def taken(text):
    units = find_units(text)
    return [text[start : start + n] for start, n in zip(units.starts.tolist(), units.lengths.tolist(), strict=True)]


@pytest.mark.parametrize("text", SCRIPTS.values(), ids=SCRIPTS)
def test_where_there_are_spaces_words_are_what_is_between_them(text):
    assert taken(text) == text.split()
    assert count_words(text) == len(text.split())


@pytest.mark.parametrize(
    ("text", "units", "words"),
    [
        ("你好，世界。", ["你", "好", "，", "世", "界", "。"], 3),
        ("カタカナ ｱｲ", ["カ", "タ", "カ", "ナ", "ｱ", "ｲ"], 3),
        ("ภาษาไทย", ["ภ", "า", "ษ", "า", "ไ", "ท", "ย"], 3.5),
        ("กี่", ["กี่"], 0.5),  # a letter with its vowel and tone
        ("用Python写", ["用", "Python", "写"], 2),
        ("x" * 200, ["x" * 200], 1),
        ("x" * 201, ["x"] * 201, 100.5),
    ],
)
def test_characters_count_where_there_are_no_spaces(text, units, words):
    assert taken(text) == units
    assert count_words(text) == words


@given(MIXED)
def test_every_character_but_spaces_is_in_one_unit(text):
    assert "".join(taken(text)) == "".join(text.split())
    assert count_words(text) == find_units(text).sizes.sum() / 2


@given(MIXED, st.integers(1, 9))
def test_cutting_loses_nothing(text, words):
    pieces = cut_words(text, words)
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert all(count_words(piece) <= words + 1 for piece in pieces)
    assert all(count_words(piece) >= words - 0.5 for piece in pieces[:-1])


@given(MIXED, MIXED, st.integers(1, 4))
def test_runs_are_equal_where_units_are(one, other, words):
    def runs(text):
        """All shortest runs of so many words, taken one by one."""
        units, sizes = taken(text), find_units(text).sizes.tolist()
        ends = {
            start: next((end for end in range(len(units) + 1) if sum(sizes[start:end]) >= 2 * words), None)
            for start in range(len(units))
        }
        return [tuple(units[start:end]) for start, end in ends.items() if end]

    first, second = runs(one), runs(other)
    hashes = find_units(one).runs(words).tolist(), find_units(other).runs(words).tolist()
    assert list(map(len, hashes)) == [len(first), len(second)]
    equal = dict(zip(first + second, hashes[0] + hashes[1], strict=True))
    assert len(equal) == len(set(equal.values())) == len({*hashes[0], *hashes[1]})

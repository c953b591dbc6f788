import json
import random
import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searcher.errors import UsageError
from searcher.loading import sources
from searcher.loading.sources import read_documents
from searcher.loading.splits import connected, fingerprint, split_documents
from searcher.loading.text import drop_repeats, load_text

PARTS = ("search", "heal", "report")
WORDS = st.sampled_from(["one", "two", "three", "four", "five", "six", "seven"])
PIECES = st.lists(WORDS, min_size=15, max_size=25).map(" ".join)


@st.composite
def texts_made_of_repeats(draw):
    """Documents put together from a few pieces, so that many share long runs."""
    pieces = draw(st.lists(PIECES, min_size=3, max_size=12))
    return draw(st.lists(st.lists(st.sampled_from(pieces), min_size=1, max_size=4).map("\n\n".join), max_size=25))


def runs(documents, words):
    return {tuple(found[i : i + 20]) for found in map(words, documents) for i in range(len(found) - 19)}


def assert_disjoint(parts):
    for words in (str.split, lambda text: re.findall(r"\w+", text.lower())):
        found = [runs(parts[name], words) for name in PARTS]
        for i in range(3):
            assert not found[i] & found[i - 1]


@given(texts_made_of_repeats())
@settings(max_examples=80, deadline=None)
def test_no_20_word_run_is_shared_between_the_parts(documents):
    parts = split_documents(drop_repeats(documents))
    assert_disjoint(parts)
    assert sorted(d for name in PARTS for d in parts[name]) == sorted(drop_repeats(documents))


def test_the_embedded_text():
    text = load_text(None)
    parts = {name: getattr(text, name) for name in PARTS}
    assert_disjoint(parts)
    sizes = {name: sum(map(len, documents)) for name, documents in parts.items()}
    total = sum(sizes.values())
    assert 0.35 < sizes["search"] / total < 0.45
    assert 0.25 < sizes["heal"] / total < 0.35
    assert 0.25 < sizes["report"] / total < 0.35
    assert total > 300_000
    assert text.name.startswith("pydoc_data.topics (Python 3.")


def test_documents_joined_through_a_third_stay_together():
    a, b = (" ".join(f"{name}{i}" for i in range(20)) for name in "ab")
    documents = [f"{a} x", "quite another text", f"y {b}", f"{a} z {b}"]
    assert sorted(map(sorted, connected(documents))) == [[0, 2, 3], [1]]


def test_a_run_of_19_words_joins_nothing():
    run = " ".join(f"w{i}" for i in range(19))
    assert len(connected([f"{run} a", f"{run} b"])) == 2
    assert len(connected([f"{run} a b", f"c {run} a"])) == 1


def test_punctuation_does_not_hide_a_run():
    plain = " ".join(f"word{i}" for i in range(20))
    assert len(connected([plain, plain.upper().replace(" ", ", ")])) == 1


def test_paragraphs_are_kept_once():
    kept = drop_repeats(["a b\n\nc", "c\n\nd", "a   b\n\n\n", "e\n \nd\nd"])
    assert kept == ("a b\n\nc", "d", "e\n\nd\nd")


def test_parts_depend_on_the_text_alone():
    code = "from searcher.loading.text import load_text; t = load_text(None); print(hash('x'), t.search + t.report)"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout.partition(" ")
        for seed in ("1", "2")
    }
    assert len({first for first, _, _ in outputs}) == 2  # the hashes did differ
    assert len({rest for _, _, rest in outputs}) == 1


def test_fingerprint_tells_documents_apart():
    assert fingerprint(["ab", "c"]) != fingerprint(["a", "bc"]) != fingerprint(["abc"])


def test_plain_text_becomes_sections(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("\n\n".join(" ".join(f"w{i}_{j}" for j in range(400)) for i in range(10)))
    documents = read_documents(str(path)).documents
    assert [len(d.split()) for d in documents] == [1200, 1200, 1200, 400]


@pytest.mark.parametrize("between", [" ", "\n"])
def test_plain_text_without_paragraphs_is_cut_too(tmp_path, between):
    path = tmp_path / "a.txt"
    path.write_text(between.join(f"w{i}" for i in range(9000)))
    documents = read_documents(str(path)).documents
    assert [w for d in documents for w in d.split()] == [f"w{i}" for i in range(9000)]
    assert all(len(d.split()) <= 2000 for d in documents)
    assert all(getattr(load_text(str(path)), part) for part in PARTS)


def test_wikitext_titles_start_documents(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(" = One = \n\ntext\n\n = = Part = = \n\nmore\n\n = Two = \n\nend\n")
    assert [d.split()[1] for d in read_documents(str(path)).documents] == ["One", "Two"]


def test_jsonl_parquet_and_saved_folders_hold_a_document_a_row(tmp_path):
    from datasets import Dataset

    rows = [{"text": "first text"}, {"text": "second"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    dataset = Dataset.from_list(rows)
    dataset.to_parquet(tmp_path / "a.parquet")
    dataset.save_to_disk(tmp_path / "saved")
    for name in ("a.jsonl", "a.parquet", "saved"):
        assert read_documents(str(tmp_path / name)).documents == ("first text", "second")


def test_long_text_is_cut_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAX_CHARACTERS", 12)
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"text": "12345678"}) for _ in range(3)))
    source = read_documents(str(path))
    assert source.documents == ("12345678", "1234")
    assert source.truncated


def write(path, content):
    path.write_bytes(content) if isinstance(content, bytes) else path.write_text(content)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, "there is no such file"),
        ("./none", None, "there is no such file"),
        ("a.txt", b"caf\xe9", "cannot be read ('utf-8' codec"),
        ("a.txt", "  \n", "holds no text"),
        ("a.csv", "x", "'.csv' are not read"),
        ("a.jsonl", '{"text": "a"}\n{"text"', "line 2 is not JSON"),
        ("a.jsonl", '{"content": "a"}', "line 1 has no 'text' of type string, only content"),
        ("a.jsonl", "[1]", "no 'text' of type string, but is a list ([1])"),
        ("a.parquet", "no parquet", "no readable parquet"),
    ],
)
def test_what_cannot_be_read_is_refused_naming_it(tmp_path, monkeypatch, name, content, message):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        write(tmp_path / name, content)
    with pytest.raises(UsageError, match=re.escape(message)) as error:
        read_documents(name)
    assert name.removeprefix("./") in str(error.value)


def test_a_folder_that_datasets_did_not_write(tmp_path):
    with pytest.raises(UsageError, match="datasets did not write"):
        read_documents(str(tmp_path))


def test_an_unknown_dataset_is_refused(monkeypatch):
    import datasets

    def unreachable(*_args, **_kwargs):
        raise ConnectionError("no network\nat all")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(UsageError, match=r"cannot be had from the datasets hub \(no network\)"):
        read_documents("someone/something:config:test")


def test_hub_ids_are_split_into_name_config_and_split(monkeypatch):
    import datasets

    asked = []

    def load(name, config, *, split, streaming):
        asked.append((name, config, split, streaming))
        return [{"text": " = Title = \n"}, {"text": "a line\n"}]

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert read_documents("wikitext2").documents == (" = Title = \na line",)  # rows are lines there
    assert len(read_documents("c4").documents) == 2
    read_documents("me/mine")
    assert asked == [
        ("Salesforce/wikitext", "wikitext-2-raw-v1", "train", True),
        ("allenai/c4", "en", "train", True),
        ("me/mine", None, "train", True),
    ]


LETTERS = {
    "Chinese": [chr(c) for c in range(0x4E00, 0x5200)],
    "Japanese": [chr(c) for c in range(0x3042, 0x3090)] + [chr(c) for c in range(0x4E00, 0x4F00)],
    "Thai": [chr(c) for c in range(0x0E01, 0x0E2F)],
    "Arabic": [f"{chr(c)} " for c in range(0x0627, 0x0643)],
    "mixed": ["词", "汇", "テ", "ス", "ト", "word ", "another ", "ไทย", "\U0001f600"],
    "emoji": [chr(c) for c in range(0x1F600, 0x1F640)],
}


def lines_of(script, count=900, seed=0):
    rng = random.Random(seed)
    return ["".join(rng.choices(LETTERS[script], k=rng.randint(70, 150))) for _ in range(count)]


def shared(parts, characters):
    """Runs of so many characters, spaces left out, that two parts have in common."""
    found = []
    for name in PARTS:
        texts = ["".join(document.split()) for document in parts[name]]
        found.append({text[i : i + characters] for text in texts for i in range(len(text) - characters + 1)})
    return [run for i in range(3) for run in found[i] & found[i - 1]]


def parts_of(text):
    return {name: getattr(text, name) for name in PARTS}


@pytest.mark.parametrize("between", ["\n", ""], ids=["lines", "one line"])
@pytest.mark.parametrize("script", LETTERS)
def test_text_of_every_script_fills_all_three_parts(tmp_path, script, between):
    lines = lines_of(script)
    (tmp_path / "a.txt").write_text(between.join(lines), encoding="utf-8")
    text = load_text(str(tmp_path / "a.txt"))
    sizes = {name: sum(map(len, documents)) for name, documents in parts_of(text).items()}
    assert 0.3 < sizes["search"] / sum(sizes.values()) < 0.5
    assert 0.2 < sizes["report"] / sum(sizes.values()) < 0.4
    assert_disjoint(parts_of(text))
    if script not in ("Arabic", "mixed"):  # where words make a run, or longer ones
        assert not shared(parts_of(text), 40)


def test_900_lines_of_chinese_hold_the_windows_of_a_run(tmp_path):
    from searcher.loading.windows import cut_windows
    from searcher.testing import tiny_tokenizer

    (tmp_path / "a.txt").write_text("\n".join(lines_of("Chinese")), encoding="utf-8")
    text = load_text(str(tmp_path / "a.txt"))
    for split, count in (("search", 8), ("report", 32)):
        found = cut_windows(getattr(text, split), tiny_tokenizer(), tokens=128, count=count, split=split, seed=None)
        assert len(set(found.documents)) >= 5


@pytest.mark.parametrize("script", ["Chinese", "Japanese", "Thai"])
def test_a_run_of_40_characters_joins_documents_without_spaces(script):
    rng = random.Random(1)
    run, other, first, second = ("".join(rng.choices(LETTERS[script], k=40)) for _ in range(4))
    assert len(connected([first + run + other, second + run])) == 1
    assert len(connected([first + run[:39] + other, second + run[:39] + first[::-1]])) == 2
    spaced = " ".join(run)  # of characters with spaces between them, as others are typed
    assert len(connected([first + run, f"{second} {spaced}"])) == 1


@given(st.lists(st.lists(st.sampled_from([*"词汇テストab", "word ", "ไทย"]), min_size=30, max_size=90), max_size=12))
@settings(max_examples=50, deadline=None)
def test_no_40_character_run_is_shared_between_the_parts(pieces):
    documents = ["".join(piece) for piece in pieces]
    assert not shared(split_documents(drop_repeats(documents)), 80)  # 20 words are no more characters than these


@pytest.mark.parametrize("words", [100, 1500])
def test_one_english_line_is_cut_into_all_three_parts(tmp_path, words):
    (tmp_path / "a.txt").write_text(" ".join(f"w{i}" for i in range(words)))
    parts = parts_of(load_text(str(tmp_path / "a.txt")))
    assert all(parts.values())
    assert sorted(w for part in parts.values() for d in part for w in d.split()) == sorted(
        f"w{i}" for i in range(words)
    )
    assert_disjoint(parts)


def test_one_book_among_short_rows_is_cut_into_all_three_parts(tmp_path):
    book = "\n\n".join(" ".join(f"w{i}_{j}" for j in range(100)) for i in range(200))
    rows = [{"text": "a short one"}, {"text": book}, {"text": "another"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sizes = [sum(map(len, documents)) for documents in parts_of(load_text(str(tmp_path / "a.jsonl"))).values()]
    assert min(sizes) > 0.2 * sum(sizes)


@pytest.mark.parametrize("script", ["Chinese", "Arabic"])
def test_lines_that_repeat_do_not_join_everything(tmp_path, script):
    lines = lines_of(script, count=300)
    (tmp_path / "a.txt").write_text("\n".join(random.Random(0).choices(lines, k=1200)), encoding="utf-8")
    parts = parts_of(load_text(str(tmp_path / "a.txt")))
    assert all(parts.values())
    assert_disjoint(parts)


def test_what_can_be_shared_out_as_it_is_stays_as_it_is(tmp_path):
    rows = [" ".join(f"w{i}_{j}" for j in range(3000)) for i in range(5)]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": row}) for row in rows))
    assert sorted(d for part in parts_of(load_text(str(tmp_path / "a.jsonl"))).values() for d in part) == sorted(rows)

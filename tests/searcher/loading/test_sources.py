import json
from pathlib import Path

import pytest

from searcher.errors import UsageError
from searcher.loading.sources import SECTION_WORDS, read_documents, sections


def refused(data):
    """The error that reading gives: on one line, with a hint."""
    with pytest.raises(UsageError) as error:
        read_documents(str(data))
    assert "\n" not in str(error.value)
    assert error.value.hint
    return error.value


def saved(path, splits):
    from datasets import Dataset, DatasetDict

    DatasetDict({name: Dataset.from_list(rows) for name, rows in splits.items()}).save_to_disk(path)
    return str(path)


def test_of_a_saved_dict_train_is_read_or_else_the_first_split(tmp_path):
    both = saved(tmp_path / "both", {"test": [{"text": "t"}], "train": [{"text": "u"}]})
    assert read_documents(both).documents == ("u",)
    one = saved(tmp_path / "one", {"validation": [{"text": "v"}], "test": [{"text": "t"}]})
    assert read_documents(one).documents == ("v",)


def test_a_saved_dataset_without_the_column_is_refused(tmp_path):
    error = refused(saved(tmp_path / "a", {"train": [{"content": "t"}]}))
    assert "no 'text' of type string, only content" in error.message


def test_a_damaged_saved_dataset_is_refused(tmp_path):
    folder = saved(tmp_path / "a", {"train": [{"text": "t" * 999}] * 50})
    for path in Path(folder).rglob("*.arrow"):
        path.write_bytes(b"junk")
    assert folder in refused(folder).message


def test_a_parquet_file_without_the_column_is_refused(tmp_path):
    from datasets import Dataset

    Dataset.from_list([{"content": "t", "id": 1}]).to_parquet(tmp_path / "a.parquet")
    assert "has no 'text' column, only content, id" in refused(tmp_path / "a.parquet").message


def test_a_file_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    def denied(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    for name in ("a.txt", "a.jsonl"):
        (tmp_path / name).write_text('{"text": "a"}')
    monkeypatch.setattr(Path, "open", denied)
    for name in ("a.txt", "a.jsonl"):
        error = refused(tmp_path / name)
        assert str(tmp_path / name) in error.message
        assert "Permission denied" in error.message


def test_invalid_utf8_in_rows_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n{"text": "\xff"}\n')
    assert "cannot be read ('utf-8' codec" in refused(tmp_path / "a.jsonl").message


def test_rows_of_the_hub_without_the_field_are_refused(monkeypatch):
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda *_args, **_options: [{"question": "q"}])
    assert "'me/mine', row 1 has no 'text' of type string, only question" in refused("me/mine").message


def test_the_hub_is_read_no_further_than_the_limit(monkeypatch):
    import datasets

    from searcher.loading import sources

    taken = []

    def rows():
        for number in range(100):
            taken.append(number)
            yield {"text": "12345678"}

    monkeypatch.setattr(sources, "MAX_CHARACTERS", 20)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_args, **_options: rows())
    source = read_documents("me/mine")
    assert source.documents == ("12345678", "12345678", "1234")
    assert source.truncated
    assert len(taken) == 3


def test_what_exists_on_disk_is_no_dataset_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "me" / "mine", {"train": [{"text": "t"}]})
    assert read_documents("me/mine").documents == ("t",)


def test_text_of_exactly_the_limit_is_not_truncated(tmp_path, monkeypatch):
    from searcher.loading import sources

    monkeypatch.setattr(sources, "MAX_CHARACTERS", 16)
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": "12345678"}) for _ in range(2)))
    assert not read_documents(str(tmp_path / "a.jsonl")).truncated


def test_sections_lose_no_line_and_cut_no_paragraph():
    paragraphs = [f"{i} " + "word " * (SECTION_WORDS // 3) for i in range(10)]
    lines = "\n\n".join(paragraphs).splitlines()
    found = list(sections(lines))
    assert "\n".join(found).splitlines() == lines
    assert all(sum(paragraph in section for section in found) == 1 for paragraph in paragraphs)
    assert all(len(section.split()) >= SECTION_WORDS for section in found[:-1])


def test_a_long_plain_text_is_cut_and_says_so(tmp_path, monkeypatch):
    from searcher.loading import sources

    paragraphs = "\n\n".join("word " * SECTION_WORDS for _ in range(10))
    monkeypatch.setattr(sources, "MAX_CHARACTERS", len(paragraphs) - 5)
    (tmp_path / "a.txt").write_text(paragraphs)
    source = read_documents(str(tmp_path / "a.txt"))
    assert sum(map(len, source.documents)) <= len(paragraphs) - 5
    monkeypatch.setattr(sources, "MAX_CHARACTERS", len(paragraphs) // 2)
    source = read_documents(str(tmp_path / "a.txt"))
    assert source.truncated
    assert sum(map(len, source.documents)) == len(paragraphs) // 2


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}', encoding="utf-8-sig")
    (tmp_path / "a.txt").write_text("a", encoding="utf-8-sig")
    for name in ("a.jsonl", "a.txt"):
        assert read_documents(str(tmp_path / name)).documents == ("a",)


def test_half_a_surrogate_pair_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": "\\ud800"}')
    assert "line 2 is not Unicode text" in refused(tmp_path / "a.jsonl").message


def test_a_saved_dict_without_splits_is_refused(tmp_path):
    assert "without splits" in refused(saved(tmp_path / "a", {})).message


@pytest.mark.parametrize("data", ["none.json", "./none.json"])
def test_json_names_a_file(data):
    assert "no such file" in refused(data).message


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(36, "File name too long")])
def test_a_path_that_cannot_even_be_looked_up_is_refused(monkeypatch, error):
    def fail(_path):
        raise error

    monkeypatch.setattr(Path, "exists", fail)
    assert f"Data '/a/b.txt' cannot be read ({error})" in refused("/a/b.txt").message


def test_an_id_of_too_many_parts_is_refused():
    assert "'me/mine:config:split:more' has 4 parts" in refused("me/mine:config:split:more").message


@pytest.mark.parametrize("data", ["", " "])
def test_an_empty_name_is_refused(data):
    assert "names no text" in refused(data).message


@pytest.mark.parametrize("name", ["A.TXT", "a.JsonL", "a.JSONL"])
def test_suffixes_are_read_in_any_case(tmp_path, name):
    (tmp_path / name).write_text('{"text": "a"}')
    expected = '{"text": "a"}' if name.endswith("TXT") else "a"
    assert read_documents(str(tmp_path / name)).documents == (expected,)


def test_parquet_is_read_in_any_case(tmp_path):
    from datasets import Dataset

    Dataset.from_list([{"text": "a"}]).to_parquet(tmp_path / "a.Parquet")
    assert read_documents(str(tmp_path / "a.Parquet")).documents == ("a",)
    assert "no such file" in refused(tmp_path / "none.PARQUET").message


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_a_byte_order_mark_tells_the_encoding_and_line_ends_do_not_matter(tmp_path, encoding, line_end):
    (tmp_path / "a.txt").write_bytes(line_end.join(["naïve", "", "词汇"]).encode(encoding))
    assert read_documents(str(tmp_path / "a.txt")).documents == ("naïve\n\n词汇",)
    rows = line_end.join(['{"text": "naïve"}', '{"text": "词汇"}']).encode(encoding)
    (tmp_path / "a.jsonl").write_bytes(rows)
    assert read_documents(str(tmp_path / "a.jsonl")).documents == ("naïve", "词汇")


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_other_encodings_are_refused_with_the_way_to_convert(tmp_path, name):
    (tmp_path / name).write_bytes('{"text": "naïve"}'.encode("latin-1"))
    error = refused(tmp_path / name)
    assert "'utf-8' codec can't decode byte 0xef" in error.message
    assert "iconv" in error.hint


@pytest.mark.parametrize("content", ["plain".encode("utf-16-le"), b"PK\x03\x04\x00\x00"])
def test_binary_files_are_no_text(tmp_path, content):
    (tmp_path / "a.txt").write_bytes(content)
    assert "is NUL" in refused(tmp_path / "a.txt").message


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet"])
def test_an_empty_file_is_refused(tmp_path, name):
    (tmp_path / name).touch()
    assert str(name) in refused(tmp_path / name).message


BAD_ROWS = [
    ("[" * 100_000, "is nested too deeply"),
    ('{"text": ' * 100_000, "is nested too deeply"),
    ('{"text": ' + "9" * 5000 + "}", "is not JSON (Exceeds the limit"),
    ('{"text": 5}', "no 'text' of type string, but an integer (5)"),
    ('{"text": true}', "but a boolean (True)"),
    ('{"text": null}', "but null"),
    ('{"text": 1.5}', "but a number (1.5)"),
    ('{"text": ["a", "b"]}', "but a list (['a', 'b'])"),
    ('{"text": {"a": 1}}', "but an object ({'a': 1})"),
    ("5", "but is an integer (5)"),
    ("null", "but is null"),
    ("{}", "but is an object ({})"),
    ('{"text": "a"', "is not JSON"),
]


@pytest.mark.parametrize(("row", "message"), BAD_ROWS)
def test_a_bad_row_is_told_with_its_line_and_what_was_found(tmp_path, row, message):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n\n' + row)
    error = refused(tmp_path / "a.jsonl")
    assert "a.jsonl', line 3 " in error.message
    assert message in error.message
    assert len(error.message) < 400


@pytest.mark.parametrize(("value", "message"), [(5, "an integer (5)"), (None, "null"), ([1], "a list ([1])")])
def test_a_column_of_anything_but_strings_is_told_with_its_row(tmp_path, value, message):
    import pyarrow
    from pyarrow import parquet

    good = ["a"] if value is None else []
    parquet.write_table(pyarrow.table({"text": [*good, value]}), tmp_path / "a.parquet")
    assert f"row {len(good) + 1} has no 'text' of type string, but {message}" in refused(tmp_path / "a.parquet").message
    saved(tmp_path / "b", {"train": [*({"text": text} for text in good), {"text": value}]})
    assert f"row {len(good) + 1} has no 'text' of type string, but {message}" in refused(tmp_path / "b").message

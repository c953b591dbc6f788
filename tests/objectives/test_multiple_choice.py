"""Multiple-choice items: read, split, made tokens and batches."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from choices import make_items, merging_tokenizer, write_items
from families import tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives import multiple_choice as mc
from searcher.contracts.plan import Granularity, PrunePlan
from searcher.errors import UsageError
from searcher.replay.self_check import open_replay

GOOD = {"context": "one", "choices": ["two", "three"], "answer": 1}


def read(tmp_path, items):
    return mc.read_items(str(write_items(tmp_path / "items.jsonl", items)))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"context": "a"', "not JSON"),
        ("[1]", "not a JSON object"),
        ('{"context": "a", "choices": ["b", "c"]}', "no field 'answer'"),
        (json.dumps(GOOD | {"context": 3}), "'context' is not a text: 3"),
        (json.dumps(GOOD | {"choices": ["two"]}), "'choices' is not a list of two or more texts"),
        (json.dumps(GOOD | {"choices": "two"}), "'choices' is not a list"),
        (json.dumps(GOOD | {"choices": ["two", ""]}), "none empty"),
        (json.dumps(GOOD | {"answer": 2}), "'answer' is not an index from 0 to 1: 2"),
        (json.dumps(GOOD | {"answer": -1}), "'answer' is not an index"),
        (json.dumps(GOOD | {"answer": True}), "'answer' is not an index"),
        (json.dumps(GOOD | {"answer": "1"}), "'answer' is not an index"),
        (json.dumps(GOOD | {"answer": 0}), "line 1 with another 'answer'"),
        ("[" * 100_000, "nested too deeply"),
        ("9" * 5000, "is not JSON"),
        (json.dumps(GOOD | {"context": "\ud800"}), "not Unicode text"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = tmp_path / "items.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n\n{line}\n")
    with pytest.raises(UsageError) as error:
        mc.read_items(str(path))
    assert f"{path}, line 3" in str(error.value)
    assert message in str(error.value)


def test_a_bad_file_is_named(tmp_path):
    for name, content, message in [
        ("none", None, "cannot be read"),
        ("empty", b"\n", "no multiple-choice"),
        ("latin", '{"context": "é'.encode("latin-1"), "not UTF-8"),
    ]:
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UsageError, match=message) as error:
            mc.read_items(str(path))
        assert str(path) in str(error.value)


def test_a_byte_order_mark_is_no_part_of_the_first_item(tmp_path):
    (tmp_path / "items.jsonl").write_text(json.dumps(GOOD), encoding="utf-8-sig")
    assert [item.context for item in mc.read_items(str(tmp_path / "items.jsonl"))] == ["one"]


def test_questions_are_kept_once_and_other_line_ends_are_text(tmp_path):
    path = tmp_path / "items.jsonl"
    other = {"context": "line\u2028break", "choices": ["a", "b"], "answer": 0}
    path.write_text("\n".join(json.dumps(item, ensure_ascii=False) for item in [GOOD, other, GOOD]), encoding="utf-8")
    assert [item.context for item in mc.read_items(str(path))] == ["one", "line\u2028break"]


def test_splits_share_no_item_and_are_halves(tmp_path):
    items = read(tmp_path, make_items(60))
    search, report = (mc.split_items(items, split) for split in ("search", "report"))
    assert sorted(item.text for item in search + report) == sorted(item.text for item in items)
    assert not {item.text for item in search} & {item.text for item in report}
    assert abs(len(search) - len(report)) <= 1
    assert mc.split_items(items[::-1], "search") == search  # whatever the order of the file
    assert mc.split_items(items, "screen") == search


def test_items_of_one_context_are_in_one_split(tmp_path):
    items = read(tmp_path, [item | {"context": f"question {i % 9}"} for i, item in enumerate(make_items(60))])
    search, report = (mc.split_items(items, split) for split in ("search", "report"))
    assert not {item.context for item in search} & {item.context for item in report}
    assert 20 < len(search) < 40
    instructed = read(tmp_path, [item | {"context": "the same"} for item in make_items(60)])
    assert len(mc.split_items(instructed, "search")) == 30
    with pytest.raises(UsageError, match="a single question"):
        mc.split_items(instructed[:1], "search")


def test_fewer_items_are_a_part_of_more(tmp_path):
    items = mc.split_items(read(tmp_path, make_items(60)), "search")
    assert mc.take(items, 10) == mc.take(items, 20)[:10]
    assert mc.take(items, 20) != items[:20]
    assert sorted(mc.take(items, 999), key=str) == sorted(items, key=str)


def harness(tokenizer, max_length=None):
    """What lm-evaluation-harness tokenizes with, and what it hands to the model."""
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=tiny_model("llama"), backend="causal", tokenizer=tokenizer, max_length=max_length)
    asked = []
    lm._loglikelihood_tokens = lambda requests, **_: asked.extend(requests)
    return lm, asked


@pytest.mark.parametrize("adds_bos", [False, True])
def test_tokens_are_those_of_the_harness(adds_bos):
    tokenizer = merging_tokenizer(adds_bos)
    lm, asked = harness(merging_tokenizer(adds_bos))
    special = [
        {"context": "", "choices": ["[BOS] ab", "cd"], "answer": 0},
        {"context": "[BOS]ab cd", "choices": ["ab", "cd"], "answer": 0},
        {"context": "ab\n cd \n", "choices": ["ab ", " cd"], "answer": 0},
    ]
    items = [mc._parse(json.dumps(item), "here") for item in make_items(40, empty_contexts=True) + special]
    requests = [SimpleNamespace(args=(item.context, f" {choice}")) for item in items for choice in item.choices]
    lm.loglikelihood(requests, disable_tqdm=True)
    encoded = [mc.encode(item, tokenizer) for item in items]
    found = [(row[:-n], row[-n:]) for item in encoded for row, n in zip(item.rows, item.scored, strict=True)]
    assert found == [(tuple(context), tuple(continuation)) for _, context, continuation in asked]


def test_what_is_too_long_loses_its_beginning():
    tokenizer = merging_tokenizer()
    item = mc._parse(json.dumps(GOOD | {"context": "ab " * 40, "choices": ["cd ef", "gh"]}), "here")
    whole = mc.encode(item, tokenizer)
    tokenizer.model_max_length = 12
    cut = mc.encode(item, tokenizer)
    assert cut.rows == tuple(row[-12:] for row in whole.rows)
    assert cut.scored == whole.scored
    tokenizer.model_max_length = 2
    with pytest.raises(UsageError, match="here: choice 'cd ef' is"):
        mc.encode(item, tokenizer)


def test_contexts_that_nothing_can_stand_for_are_refused():
    tokenizer = merging_tokenizer()
    with pytest.raises(UsageError, match="nothing but spaces"):
        mc.encode(mc._parse(json.dumps(GOOD | {"context": " \n"}), "here"), tokenizer)
    tokenizer.bos_token = tokenizer.eos_token = None
    with pytest.raises(UsageError, match="'context' is empty"):
        mc.encode(mc._parse(json.dumps(GOOD | {"context": ""}), "here"), tokenizer)


@settings(deadline=None, max_examples=20)
@given(count=st.integers(1, 60), seed=st.integers(0, 9))
def test_batches_hold_every_choice_once(count, seed):
    items = [mc._parse(json.dumps(item), "here") for item in make_items(count, seed)]
    encoded = [mc.encode(item, merging_tokenizer()) for item in items]
    groups = list(mc.pack(encoded))
    assert sorted(map(str, (item for group in groups for item in group))) == sorted(map(str, encoded))
    for group in groups:
        batch = mc._batch(group)
        assert batch.ids.numel() <= mc.BATCH_TOKENS or len(group) == 1
        assert batch.items == len(group) == len(batch.extra["answer"])
        assert batch.extra["choices"].sum() == len(batch.ids) == len(batch.extra["characters"])
        rows = [(row, n) for item in group for row, n in zip(item.rows, item.scored, strict=True)]
        for ids, scored, (row, n) in zip(batch.ids, batch.scored, rows, strict=True):
            assert tuple(ids[: len(row)].tolist()) == row
            assert tuple(ids[1:][scored].tolist()) == row[-n:]


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gpt2", "opt", "bloom", "mixtral", "gpt_oss"])
def test_padding_changes_no_likelihood(family):
    items = [mc._parse(json.dumps(item), "here") for item in make_items(6)]
    encoded = [mc.encode(item, merging_tokenizer()) for item in items]
    batch = mc._batch(encoded)
    with torch.inference_mode():
        replay = open_replay(tiny_model(family), Granularity.BLOCK)

        def losses(ids):
            ((_, hidden),) = replay.states(ids, [PrunePlan.parse("1")])
            return replay.head.losses(hidden, ids)

        padded = losses(batch.ids)
        rows = [(row, n) for item in encoded for row, n in zip(item.rows, item.scored, strict=True)]
        for i, (row, n) in enumerate(rows):
            alone = losses(torch.tensor([row]))[0, -n:]
            np.testing.assert_allclose(padded[i][batch.scored[i]], alone, rtol=1e-4, atol=1e-5)

"""Names of blocks are found by how they are numbered, and numbered anew without gaps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from searcher.checkpoint.block_names import BlockNames, NamesDoNotFitError, find_names

OWN = ("attn.q.weight", "mlp.up.weight")


def named(prefix, count, own=OWN):
    return [f"{prefix}.{number}.{name}" for number in range(count) for name in own]


def find(tensors, kept=(0, 2, 3), count=4, ahead=0, path="model.layers"):
    return find_names(tensors, path, OWN, ahead, count, kept)


@pytest.mark.parametrize("prefix", ["model.layers", "h", "transformer.h", "language_model.model.layers"])
def test_whatever_the_list_is_called_in_the_files(prefix):
    names = find([*named(prefix, 4), "model.embed.weight", *(f"{prefix}.1.experts.{i}.w" for i in range(4))])
    assert names.prefix == prefix
    assert names.tensor(f"{prefix}.1.experts.3.w") is None
    assert names.tensor(f"{prefix}.3.experts.3.w") == f"{prefix}.2.experts.3.w"
    assert names.tensor("model.embed.weight") == "model.embed.weight"
    assert names.module("model.layers.2.mlp") == "model.layers.1.mlp"


def test_a_tower_of_as_many_layers_is_left_alone():
    names = find([*named("tower.layers", 4, ["attention.weight"]), *named("model.layers", 4)])
    assert names.tensor("tower.layers.1.attention.weight") == "tower.layers.1.attention.weight"
    assert names.in_config(["tower.layers.1.a", "model.layers.1.a", "layers.2.a"]) == ["tower.layers.1.a", "layers.1.a"]


def test_blocks_that_predict_further_ahead_stay_after_the_last():
    names = find([*named("model.layers", 5)], ahead=1)
    assert names.tensor("model.layers.4.mlp.up.weight") == "model.layers.3.mlp.up.weight"


@pytest.mark.parametrize(
    "tensors",
    [
        [],
        ["model.layers.weight"],
        named("model.layers", 3),
        named("model.layers", 5),
        [*named("a.layers", 4), *named("b.layers", 4)],
        [f"{number}.w" for number in range(4)],
    ],
)
def test_names_that_do_not_tell_blocks_apart(tensors):
    with pytest.raises(NamesDoNotFitError):
        find(tensors)


@given(st.integers(1, 30).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))))
def test_blocks_are_numbered_without_gaps_and_in_order(given_blocks):
    count, gone = given_blocks
    kept = [number for number in range(count) if number not in gone]
    names = find(named("model.layers", count), kept, count)
    renamed = [names.tensor(f"model.layers.{number}.x") for number in range(count)]
    assert [one for one in renamed if one] == [f"model.layers.{place}.x" for place in range(len(kept))]
    assert [number for number, one in enumerate(renamed) if one] == kept


NAMES = BlockNames("model.layers", "model.layers", {0: 0, 2: 1, 3: 2}, 1)


@pytest.mark.parametrize(
    ("entry", "wanted"),
    [
        ("model.layers.2", "model.layers.1"),
        ("model.layers.20.mlp", "model.layers.19.mlp"),
        ("re:.*layers\\.3\\.mlp", "re:.*layers\\.2\\.mlp"),
        ("-:model\\.layers\\.2\\..*", "-:model\\.layers\\.1\\..*"),
        ("model.layers.3*", "model.layers.2*"),
        ("re:model\\.layers\\.[0-9]+\\.mlp", "re:model\\.layers\\.[0-9]+\\.mlp"),
        ("lm_head", "lm_head"),
        ("players.2", "players.2"),
    ],
)
def test_entries_of_a_config(entry, wanted):
    assert NAMES.in_config([entry]) == [wanted]
    assert NAMES.in_config({entry: {"bits": [1, None, entry]}}) == {wanted: {"bits": [1, None, wanted]}}


@pytest.mark.parametrize("entry", ["re:model\\.layers\\.(1|2)\\.", "re:layers\\.[12]\\.mlp"])
def test_expressions_for_several_blocks_are_refused(entry):
    with pytest.raises(NamesDoNotFitError, match="several blocks"):
        NAMES.in_config([entry])

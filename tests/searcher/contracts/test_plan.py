import pytest
from hypothesis import given
from hypothesis import strategies as st

from searcher.contracts.plan import Action, Budget, Granularity, Part, PrunePlan, Unit, all_units, legal_units
from searcher.errors import UsageError

UNITS = st.lists(st.builds(Unit, st.integers(0, 40), st.sampled_from(list(Part))))
PLANS = UNITS.map(PrunePlan.of)


@given(PLANS)
def test_text_reads_back(plan):
    assert PrunePlan.parse(str(plan)) == plan


@given(UNITS, st.randoms())
def test_order_and_repeats_do_not_matter(units, random):
    shuffled = units + units[:3]
    random.shuffle(shuffled)
    assert PrunePlan.of(shuffled) == PrunePlan.of(units)
    assert hash(PrunePlan.of(shuffled)) == hash(PrunePlan.of(units))


@given(PLANS)
def test_both_sublayers_gone_is_the_block_gone(plan):
    apart = [unit for u in plan.removed for unit in PrunePlan((u,)).units(Granularity.SUBLAYER)]
    assert PrunePlan.of(apart) == plan
    assert plan.size(Granularity.SUBLAYER) == len(apart) == sum(int(a).bit_count() for a in plan.actions(41))


@given(PLANS)
def test_removed_is_sorted_and_each_block_once(plan):
    blocks = [unit.block for unit in plan.removed]
    assert blocks == sorted(set(blocks))


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("3-5,9,12.attn,14.ffn", "3-5,9,12.attn,14.ffn"),
        ("9, 5,4,3", "3-5,9"),
        ("1,2", "1-2"),
        ("7.attn,7.ffn", "7"),
        ("3-5,4.attn", "3-5"),
        ("2,3.attn,4", "2,3.attn,4"),
        ("", "dense"),
        ("dense", "dense"),
    ],
)
def test_canonical_text(text, canonical):
    assert str(PrunePlan.parse(text)) == canonical


@pytest.mark.parametrize("text", ["x", "3-", "-3", "3.mlp", "3..5", "3,,4", "3-5.attn", "1.5", "5-3"])
def test_what_is_no_plan_is_refused_naming_it(text):
    with pytest.raises(UsageError, match="Plan") as error:
        PrunePlan.parse(text)
    assert text in str(error.value)


def test_units_of_a_granularity():
    plan = PrunePlan.parse("3,5")
    assert plan.units(Granularity.BLOCK) == (Unit(3), Unit(5))
    assert plan.size(Granularity.SUBLAYER) == 4
    with pytest.raises(UsageError, match="no unit of granularity 'attention'"):
        plan.units(Granularity.ATTENTION)
    with pytest.raises(UsageError, match="no unit of granularity 'block'"):
        PrunePlan.parse("3.attn").units(Granularity.BLOCK)
    assert PrunePlan.parse("3.attn").units(Granularity.ATTENTION) == (Unit(3, Part.ATTENTION),)


def test_actions():
    plan = PrunePlan.parse("0,2.attn,3.ffn")
    assert plan.actions(5) == (Action.GONE, Action.KEEP, Action.NO_ATTENTION, Action.NO_FFN, Action.KEEP)


def test_a_block_that_does_not_exist():
    with pytest.raises(UsageError, match="block 30, but the model has 30"):
        PrunePlan.parse("2,30").check(30)
    PrunePlan.parse("29").check(30)


@pytest.mark.parametrize(
    ("text", "legal", "sizes"),
    [("8", 30, (8,)), ("25%", 30, (7,)), ("1%", 30, (1,)), ("100%", 30, (30,)), ("2-4", 30, (2, 3, 4))],
)
def test_budget(text, legal, sizes):
    assert Budget(text).sizes(legal) == sizes


@pytest.mark.parametrize("text", ["0", "0%", "0-3", "5-2", "x", "-1", "1.5", "", "8 units", "1-2-3"])
def test_what_is_no_budget_is_refused_naming_it(text):
    with pytest.raises(UsageError) as error:
        Budget(text)
    assert f"'{text}'" in str(error.value)


@pytest.mark.parametrize("text", ["31", "1-31", "101%"])
def test_a_budget_beyond_the_legal_units(text):
    with pytest.raises(UsageError, match="larger than the 30 units"):
        Budget(text).sizes(30)


def test_protected_units():
    keep = PrunePlan.parse("0,2.attn")
    assert legal_units(3, Granularity.BLOCK, keep) == (Unit(1),)
    assert legal_units(3, Granularity.ATTENTION, keep) == (Unit(1, Part.ATTENTION),)
    assert [str(u) for u in legal_units(3, Granularity.SUBLAYER, keep)] == ["1.attn", "1.ffn", "2.ffn"]
    assert legal_units(3, Granularity.BLOCK, PrunePlan()) == all_units(3, Granularity.BLOCK)
    with pytest.raises(UsageError, match="names block 3"):
        legal_units(3, Granularity.BLOCK, PrunePlan.parse("3"))

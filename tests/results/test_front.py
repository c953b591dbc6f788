import math

from hypothesis import given
from hypothesis import strategies as st

from results.front import nondominated

POINTS = st.integers(1, 3).flatmap(lambda n: st.lists(st.tuples(*[st.integers(-4, 4)] * n), max_size=12))


@given(POINTS)
def test_equals_the_definition(points):
    def beats(one, other):
        return one != other and all(a <= b for a, b in zip(one, other, strict=True))

    assert nondominated(points) == [not any(beats(q, p) for q in points) for p in points]


def test_what_is_not_finite_comes_last():
    assert nondominated([(1.0, 2.0), (1.0, math.inf), (0.0, math.nan)]) == [True, False, True]
    assert nondominated([(-1, math.nan), (-2, 1.0)]) == [False, True]

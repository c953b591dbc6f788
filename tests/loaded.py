"""What loading a model says where it refuses, and what the model then scores."""

import pytest

import searcher
from searcher.errors import UsageError


def refused(call, *args, **options):
    with pytest.raises(UsageError) as caught:
        call(*args, **options)
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    return str(caught.value)


def perplexity(options):
    (found,) = searcher.evaluate(["dense"], **options)["evaluations"]
    return found["values"]["perplexity"]

"""Every option of measurement at every entry point: it is taken, or refused, and both doors agree."""

import inspect
from itertools import product

import pytest
import typer

import searcher
from searcher.api.unused_options import NOT_TAKEN
from searcher.cli.app import app
from searcher.runs.config import MeasurementConfig

FIELDS = tuple(MeasurementConfig.model_fields)
VALUES = {
    "model": "./nowhere.gguf",
    "revision": "main",
    "trust_remote_code": True,
    "dtype": "float32",
    "quantize": "int8",
    "data": "nowhere.txt",
    "windows": 4,
    "window_tokens": 16,
    "report_windows": 32,
    "data_seed": 1,
    "objective": "loss",
    "objective_args": {},
    "heal": "bias",
    "heal_windows": 4,
    "heal_data": "nowhere.txt",
    "heal_answers": True,
    "device": "cpu",
    "memory": "1GiB",
    "weights": "streamed",
    "workers": 2,
    "ray_address": "auto",
}
OWN = {"heal": {"heal"}, "export": {"heal"}}  # that a command declares itself, with a meaning of its own
CALLS = {
    "run": lambda **options: searcher.run(budget=1, quiet=True, **options),
    "evaluate": lambda **options: searcher.evaluate(["1"], quiet=True, **options),
    "heal": lambda **options: searcher.heal(plan="1", quiet=True, **options),
    "export": lambda **options: searcher.export(None, "there", plan="1", quiet=True, **options),
    "best_model": lambda **options: searcher.best_model(plan="1", quiet=True, **options),
    "analyze": lambda **options: searcher.analyze(quiet=True, **options),
}


def flags_of(entry):
    return {parameter.name for parameter in typer.main.get_command(app).commands[entry].params}


@pytest.mark.parametrize(("entry", "field"), [*product(NOT_TAKEN, FIELDS)])
def test_an_option_that_would_change_nothing_is_refused_in_python_and_missing_on_the_command_line(
    entry, field, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)  # where there is neither model nor text
    taken = field not in NOT_TAKEN[entry]
    if entry != "best_model":
        assert (field in flags_of(entry)) is (taken or field in OWN.get(entry, ()))
    options = {"model": VALUES["model"], "data": VALUES["data"], field: VALUES[field]}
    with pytest.raises(searcher.UsageError) as error:
        CALLS[entry](**options)
    refused = f"searcher.{entry} has no option '{field}'" in error.value.message
    assert refused is not taken, error.value.message


def test_every_option_is_in_the_table():
    assert set(VALUES) == set(FIELDS)
    assert set(CALLS) == set(NOT_TAKEN)


@pytest.mark.parametrize("entry", NOT_TAKEN)
def test_what_is_not_taken_are_options(entry):
    assert set(NOT_TAKEN[entry]) <= set(FIELDS)
    assert "options" in inspect.signature(getattr(searcher, entry)).parameters

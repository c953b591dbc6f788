"""Which device a name means, and what of one is asked where torch's generic interface does not tell."""

from types import SimpleNamespace

import pytest
import torch

from searcher.architecture import devices
from searcher.architecture.devices import (
    bytes_free,
    bytes_taken,
    bytes_to_take,
    check_float64,
    choose_device,
    has_bfloat16,
    may_spread,
    most_bytes_taken,
    name_of,
    seen,
    synchronize,
    versions_of,
)
from searcher.errors import UsageError
from searcher.loading.environment import environment
from searcher.loading.model import choose_dtype
from searcher.replay.batching import group_tokens
from searcher.runs.defaults import default_amounts


def pretend(monkeypatch, kind, count):
    """Let torch see so many accelerators of a kind; nothing can be computed on them."""
    monkeypatch.setattr("torch.accelerator.is_available", lambda: count > 0)
    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda: torch.device(kind))
    monkeypatch.setattr("torch.accelerator.device_count", lambda: count)


@pytest.mark.parametrize(
    ("kind", "count", "spec", "chosen"),
    [
        ("cuda", 2, "auto", "cuda:0"),
        ("cuda", 2, "cuda", "cuda:0"),
        ("cuda", 2, "cuda:1", "cuda:1"),
        ("cuda", 2, "cpu", "cpu"),
        ("xpu", 1, "auto", "xpu:0"),
        ("mps", 1, "mps", "mps:0"),
        ("cuda", 0, "auto", "cpu"),
    ],
)
def test_names(monkeypatch, kind, count, spec, chosen):
    pretend(monkeypatch, kind, count)
    assert choose_device(spec) == torch.device(chosen)


@pytest.mark.parametrize(
    ("kind", "count", "spec", "told"),
    [
        ("cuda", 2, "cuda:2", "'cuda:2' is not available: torch sees 2 of kind cuda"),
        ("cuda", 2, "xpu", "'xpu' is not available: torch sees 2 of kind cuda"),
        ("cuda", 0, "mps", "'mps' is not available: torch sees no accelerator"),
        ("cuda", 2, "meta", "'meta' is not known"),
        ("cuda", 2, "cuda:-1", "'cuda:-1' is not known"),
        ("cuda", 2, "CUDA", "'CUDA' is not known"),
    ],
)
def test_what_is_not_there_is_one_line_that_says_what_is(monkeypatch, kind, count, spec, told):
    pretend(monkeypatch, kind, count)
    with pytest.raises(UsageError, match=told):
        choose_device(spec)


def test_only_a_name_that_leaves_it_open_may_spread(monkeypatch):
    pretend(monkeypatch, "cuda", 2)
    assert [spec for spec in ("auto", "cuda", "cuda:0", "cpu") if may_spread(spec)] == ["auto", "cuda"]
    pretend(monkeypatch, "cuda", 1)
    assert not may_spread("auto")


def test_the_processor():
    cpu = torch.device("cpu")
    assert 0 < bytes_taken(cpu) < 1 << 50
    assert bytes_to_take(cpu) == pytest.approx(bytes_free(cpu) / 4, rel=0.1)
    assert most_bytes_taken(cpu) is None
    synchronize(cpu)  # has nothing to wait for, with an accelerator or without
    check_float64(cpu, "This")


class _Narrow:
    """What `torch.zeros` does on a device without float64."""

    def __call__(self, *args, **options):
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")


def test_what_has_no_float64_is_refused_by_name(monkeypatch):
    monkeypatch.setattr("torch.zeros", _Narrow())
    with pytest.raises(UsageError, match="Healing 'bias' needs float64, which mps:0 does not have"):
        check_float64(torch.device("mps:0"), "Healing 'bias'")


def test_a_device_whose_module_has_the_usual_functions(monkeypatch):
    module = SimpleNamespace(
        get_device_name=lambda device: "Fast 9000",
        memory_allocated=lambda device: 3,
        mem_get_info=lambda device: (1000, 2000),
        max_memory_allocated=lambda device: 7,
        is_bf16_supported=lambda including_emulation=True: including_emulation,
    )
    monkeypatch.setattr("torch.get_device_module", lambda device: module)
    device = torch.device("xpu:1")
    assert (name_of(device), bytes_taken(device), bytes_free(device), most_bytes_taken(device)) == (
        "Fast 9000",
        3,
        1000,
        7,
    )
    assert bytes_to_take(device) == 900
    assert not has_bfloat16(device)  # it only emulates it
    assert choose_dtype("auto", device) == torch.float16
    assert environment(device)["processor"] == "Fast 9000"


def test_a_device_whose_module_tells_nothing(monkeypatch):
    monkeypatch.setattr("torch.get_device_module", lambda device: SimpleNamespace())
    monkeypatch.setattr("torch.accelerator.memory_allocated", lambda device: 5)
    monkeypatch.setattr("torch.accelerator.get_memory_info", lambda device: (50, 100))
    device = torch.device("mtia:0")
    assert (name_of(device), bytes_taken(device), bytes_free(device)) == ("mtia", 5, 50)
    assert most_bytes_taken(device) is None
    assert not has_bfloat16(device)


def test_environments_of_cuda_are_what_they_were(monkeypatch):
    monkeypatch.setattr("torch.version.cuda", "13.0")
    assert versions_of(torch.device("cuda:0")) == {"cuda": "13.0"}


def test_other_accelerators_run_as_much_together_as_cuda():
    assert group_tokens("xpu") == group_tokens("cuda") > group_tokens("cpu")
    assert default_amounts("mps") == default_amounts("cuda") != default_amounts("cpu")


def test_nothing_is_seen_where_there_is_nothing(monkeypatch):
    pretend(monkeypatch, "cuda", 0)
    assert seen() == ("cpu", 0)
    assert devices.devices_of([torch.nn.Linear(1, 1)]) == (torch.device("cpu"),)

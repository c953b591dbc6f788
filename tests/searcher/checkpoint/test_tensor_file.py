"""Files of tensors are read and written as the library of the format does it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from searcher.checkpoint import tensor_file
from searcher.checkpoint.tensor_file import read_header, write_tensors
from searcher.errors import UsageError

DTYPES = [torch.bfloat16, torch.float32, torch.int8, torch.float8_e4m3fn, torch.bool, torch.float64]
TENSORS = st.dictionaries(
    st.text("abc.é0", min_size=1, max_size=6),
    st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 5), max_size=3)),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(TENSORS, st.dictionaries(st.text("xyz", min_size=1), st.text(max_size=4), max_size=2))
def test_what_is_read_and_written_again_is_the_same(tmp_path_factory, tensors, metadata):
    folder = tmp_path_factory.mktemp("file")
    made = {name: torch.randint(0, 2, shape).to(dtype) for name, (dtype, shape) in tensors.items()}
    save_file(made, folder / "one.safetensors", metadata=metadata or None)
    found, said = read_header(folder / "one.safetensors")
    assert said == metadata
    assert {name: one.shape for name, one in found.items()} == {name: tuple(one.shape) for name, one in made.items()}
    specs = list(found.values())
    sizes = list(write_tensors(folder / "two.safetensors", specs, (one.chunks() for one in specs), metadata))
    assert sum(sizes) == sum(one.nbytes for one in made.values())
    with safe_open(folder / "two.safetensors", "pt") as file:
        assert (file.metadata() or {}) == metadata
        for name, one in made.items():
            again = file.get_tensor(name)
            assert again.dtype == one.dtype
            assert torch.equal(again.view(-1).view(torch.uint8), one.view(-1).view(torch.uint8))


def test_large_tensors_go_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_file, "CHUNK", 7)
    save_file({"a": torch.arange(10)}, tmp_path / "one.safetensors")
    (one,) = read_header(tmp_path / "one.safetensors")[0].values()
    pieces = list(one.chunks())
    assert max(map(len, pieces)) == 7
    assert b"".join(pieces) == torch.arange(10).numpy().tobytes()


def test_a_file_that_shrinks_while_it_is_read(tmp_path):
    save_file({"a": torch.arange(10)}, tmp_path / "one.safetensors")
    (one,) = read_header(tmp_path / "one.safetensors")[0].values()
    (tmp_path / "one.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match="ends within 'a'"):
        list(one.chunks())
    with pytest.raises(UsageError, match="cut short: it holds 0 of 8 bytes"):
        read_header(tmp_path / "one.safetensors")
    (tmp_path / "one.safetensors").write_bytes(b"no tensors at all")
    with pytest.raises(UsageError, match="no safetensors file"):
        read_header(tmp_path / "one.safetensors")
    with pytest.raises(UsageError, match="cannot be read"):
        read_header(tmp_path / "none.safetensors")

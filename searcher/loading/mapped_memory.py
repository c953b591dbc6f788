"""Tensors that are a part of a mapped file: read ahead of use, and given back after it, so that they are not ours.

Pages of a file that are mapped count as memory of the process until they are given back; the kernel keeps what it has
read of the file as long as nobody else needs the room. Where there is no `madvise`, pages come and go as the kernel
likes.
"""

import ctypes
import mmap

from torch import Tensor

_POPULATE_READ = 22  # MADV_POPULATE_READ of Linux 5.14; older kernels refuse it, and read when they must
_MADVISE = getattr(ctypes.CDLL(None), "madvise", None) if hasattr(mmap, "MADV_DONTNEED") else None
if _MADVISE is not None:
    _MADVISE.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def read_ahead(tensor: Tensor) -> None:
    """Have all of a mapped tensor in memory; returns when it is there."""
    _advise(tensor, _POPULATE_READ)


def give_back(tensor: Tensor) -> None:
    """Let a mapped tensor's pages go. It is still there: whoever reads it has them read again."""
    if _MADVISE is not None:
        _advise(tensor, mmap.MADV_DONTNEED)


def _advise(tensor: Tensor, advice: int) -> None:
    if _MADVISE is not None and tensor.nbytes:
        start = tensor.data_ptr() // mmap.PAGESIZE * mmap.PAGESIZE
        _MADVISE(start, tensor.data_ptr() + tensor.nbytes - start, advice)

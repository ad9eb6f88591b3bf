"""Buffers of any library as the arrays that the kernels take, without copies.

A torch tensor on the CPU becomes a NumPy array of the same memory; one on a GPU, or whatever else has
``__cuda_array_interface__``, a CuPy array (DLPack, https://dmlc.github.io/dlpack/latest).

Work on a GPU is queued on CuPy's current stream, after what torch had queued on its own; whoever has torch on
another stream than the default one makes that stream CuPy's current one as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from hpc_fl.backends import Array
from hpc_fl.errors import CodecError

CHUNK: Final = 1 << 18
"""Elements worked on at once by what has no kernel: temporaries stay in the cache."""


def as_array(x: Any, what: str = "buffer") -> Array:
    """``x`` (n,) float32, contiguous, as a NumPy or CuPy array of the same memory; gradients are let go.

    Raises :class:`CodecError` for another type, dtype, shape, layout or device.
    """
    if isinstance(x, Tensor):
        return _of_tensor(x.detach(), what)
    on_gpu = hasattr(x, "__cuda_array_interface__")
    if not on_gpu and not isinstance(x, np.ndarray):
        raise CodecError(f"{what}: {type(x).__name__} given; a torch tensor, NumPy or CuPy array expected")
    array = _cupy().asarray(x) if on_gpu else x
    if array.dtype != np.float32 or array.ndim != 1 or not array.flags.c_contiguous:
        raise _unfit(what, str(array.dtype), array.shape, array.flags.c_contiguous)
    return array


def as_output(x: Any, n: int, what: str = "output") -> Array:
    """:func:`as_array` for something of ``n`` elements that is written to."""
    array = as_array(x, what)
    if array.size != n:
        raise CodecError(f"{what}: {array.size} elements, {n} expected")
    if isinstance(array, np.ndarray) and not array.flags.writeable:
        raise CodecError(f"{what}: the array is read-only")
    return array


def as_tensor(array: Array) -> Tensor:
    """A NumPy or CuPy array as a torch tensor of the same memory; a read-only one is copied."""
    if isinstance(array, np.ndarray):
        return torch.from_numpy(array if array.flags.writeable else array.copy())
    tensor: Tensor = torch.utils.dlpack.from_dlpack(array)
    return tensor


def together(array: Array, other: Array, what: str) -> None:
    """Raises :class:`CodecError` unless both lie on the same device."""
    if place(array) != place(other):
        raise CodecError(f"{what}: on {place(other)}, the buffer is on {place(array)}; move one of them")


def place(array: Array) -> str:
    """Where an array lies: ``cpu``, ``cuda:0``, ..."""
    return "cpu" if isinstance(array, np.ndarray) else f"cuda:{array.device.id}"


def module_of(array: Array) -> Any:
    """``numpy`` or ``cupy``: the functions for arrays of this kind."""
    return np if isinstance(array, np.ndarray) else _cupy()


def brought(part: Array, like: Array) -> Array:
    """``part`` where ``like`` lies, aligned: itself where it does, else a copy."""
    if isinstance(like, np.ndarray):
        host = part if isinstance(part, np.ndarray) else part.get()
        return np.require(host, requirements="A")
    with like.device:
        return _cupy().asarray(part)


def all_finite(array: Array) -> bool:
    """Whether there is no NaN and no infinity. A finite sum proves it; large finite terms may overflow it."""
    with np.errstate(over="ignore", invalid="ignore"):
        return math.isfinite(float(array.sum())) or bool(module_of(array).isfinite(array).all())


def chunks(n: int) -> Iterator[slice]:
    """Slices of at most ``CHUNK`` elements that make up 0..n."""
    return (slice(start, min(start + CHUNK, n)) for start in range(0, n, CHUNK))


def _of_tensor(x: Tensor, what: str) -> Array:
    if x.layout != torch.strided or x.device.type not in ("cpu", "cuda"):
        raise CodecError(
            f"{what}: a {x.layout} tensor on {x.device} given; a dense one on cpu or cuda expected"
        )
    if x.dtype != torch.float32 or x.dim() != 1 or not x.is_contiguous():
        raise _unfit(what, str(x.dtype), tuple(x.shape), x.is_contiguous())
    return x.numpy() if x.device.type == "cpu" else _cupy().from_dlpack(x)


def _unfit(what: str, dtype: str, shape: tuple[int, ...], contiguous: bool) -> CodecError:
    gaps = "" if contiguous else ", not contiguous"
    return CodecError(f"{what}: {dtype} {shape}{gaps} given; contiguous float32 (n,) expected")


def _cupy() -> Any:
    try:
        import cupy
    except ImportError as error:
        raise CodecError("buffers on a GPU need CuPy, which cannot be imported here; install it") from error
    return cupy

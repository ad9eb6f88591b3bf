"""How NumPy's arrays lie in memory, as every compiled extension knows it from NumPy's headers."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray


class _Fields(ctypes.Structure):
    """As in kernels/cpu/objects.h."""

    _fields_ = (
        ("references", ctypes.c_int64),
        ("type", ctypes.c_void_p),
        ("data", ctypes.c_void_p),
        ("nd", ctypes.c_int32),
        ("dimensions", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("base", ctypes.c_void_p),
        ("dtype", ctypes.c_void_p),
        ("flags", ctypes.c_int32),
    )


DATA: Final = _Fields.data.offset
"""Where an array object holds the address of its data."""


class _Subclass(np.ndarray[Any, Any]):
    pass


@cache
def lie_as_known() -> bool:
    """Whether array objects lie as kernels/cpu/objects.h has them, as far as arrays of many kinds show."""
    if object.__basicsize__ != DATA or np.ndarray.__basicsize__ < ctypes.sizeof(_Fields):
        return False
    whole = [np.zeros(size, dtype) for size in (1, 24) for dtype in ("u1", "i4", "i8", "f4", ">f4", "f8")]
    views = [view for x in whole for view in (x[1:], x[::2], x.reshape(1, 1, -1), x.view(_Subclass))]
    read_only = [np.frombuffer(bytes(9), "u1"), np.frombuffer(bytes(9), "f4", 2, 1)]
    return all(map(_lies_as_known, (*whole, *views, *read_only)))


def _lies_as_known(x: NDArray[Any]) -> bool:
    held = _Fields.from_address(id(x))
    expected = (id(type(x)), x.__array_interface__["data"][0], x.ndim, id(x.dtype), x.flags.num)
    if (held.type, held.data, held.nd, held.dtype, held.flags) != expected:
        return False
    return tuple(held.dimensions[: x.ndim]) == x.shape  # last: elsewhere it would be anywhere

"""The compiled C++ kernels: where they are, and how they are called."""

from __future__ import annotations

import ctypes
import sysconfig
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from struct import Struct
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hpc_fl.errors import ConfigError

Call = Callable[..., int]

_KERNELS: Final[dict[str, str]] = {
    "add_topk": "iiPPPqqfPP",
    "add_threshold": "iiPPPqfPP",
    "add_sign": "iiPPPPqPqPP",
    "sign_residual": "iiPqPqPP",
    "add_signs": "iiPqPqPfP",
    "majority": "iPqqP",
    "add_quantize": "iiPPPqiqQPP",
    "add_dequantized": "iiPPiqfPq",
    "scatter_add": "iPPqfPq",
    "merge_add": "PPqPPqPP",
    "encode_gaps": "PqP",
    "decode_gaps": "PqqPq",
    "encode_mask": "PqPq",
    "decode_mask": "PqPq",
}
"""The arguments of each function of kernels/cpu/kernels.h, in its order; P: an address, 0 for none."""
_SLOTS: Final = {"i": "i4x", "f": "f4x", "q": "q", "Q": "Q", "P": "Q"}


def kernels_folder() -> Path:
    """Where the kernels' sources and the compiled library are: installed, or beside the package."""
    spec = find_spec("hpc_fl._kernels")
    if spec is not None and spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(__file__).parents[2] / "kernels"


def find_library() -> Path | None:
    """The compiled library; None where the package was installed without a compiler."""
    path = kernels_folder() / f"_cpu{sysconfig.get_config_var('EXT_SUFFIX')}"
    return path if path.exists() else None


def data_offset() -> int:
    """Where an array object holds the address of its data; 0 where that is not where NumPy's headers say."""
    arrays = [np.zeros(8, dtype)[first:] for first in (0, 3) for dtype in (np.uint8, np.float32, np.int64)]
    offset = object.__basicsize__
    held = [ctypes.c_void_p.from_address(id(array) + offset).value for array in arrays]
    return offset if held == [array.__array_interface__["data"][0] for array in arrays] else 0


class Library:
    """The library at ``path``. ``calls``: each kernel by its name, taking the arguments of its C function.

    For an address they take what ``at`` makes of an array, or None.

    ctypes releases the GIL while a kernel runs. ``sets``: the number of each instruction set that this
    processor can run, by its name, the best last.
    """

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.hpc_call.restype = ctypes.c_int64
        self._library.hpc_call.argtypes = (ctypes.c_int32, ctypes.c_char_p, ctypes.c_int64)
        self._library.hpc_isa_name.restype = ctypes.c_char_p
        self._offset = data_offset()
        self.at: Callable[[NDArray[Any] | None], int] = _itself if self._offset else _address
        self.calls = {
            name: self._call_of(number, form) for number, (name, form) in enumerate(_KERNELS.items())
        }
        self.sets = {
            self._library.hpc_isa_name(isa).decode(): isa
            for isa in range(self._library.hpc_isa_count())
            if self._library.hpc_isa_supported(isa)
        }

    def _call_of(self, number: int, form: str) -> Call:
        pack = Struct("<" + "".join(_SLOTS[kind] for kind in form)).pack
        enter, offset = self._library.hpc_call, self._offset

        def call(*arguments: Any) -> int:
            result: int = enter(number, pack(*arguments), offset)
            return result

        return call


def _itself(array: NDArray[Any] | None) -> int:
    """The array's own place in memory (CPython's id), which the library looks into."""
    return 0 if array is None else id(array)


def _address(array: NDArray[Any] | None) -> int:
    return 0 if array is None else array.__array_interface__["data"][0]


@cache
def load(path: Path | None = None) -> Library:
    """The library at ``path``, else the installed one. Raises :class:`ConfigError` where there is none."""
    found = path or find_library()
    if found is None:
        raise ConfigError(
            "the compiled kernels are missing: install g++, then run pip install again (scripts/setup.sh)"
        )
    return Library(found)

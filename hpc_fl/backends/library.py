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

from hpc_fl.backends.objects import DATA, lie_as_known
from hpc_fl.errors import ConfigError

Call = Callable[..., int]
Pack = Callable[..., bytes]

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
_QUICK: Final[dict[str, str]] = {
    "add_topk": "iifPPPPP",
    "add_threshold": "iifPPPPP",
    "add_sign": "iiPPPPPPP",
    "sign_residual": "iiPPPP",
    "add_signs": "iifPPPP",
    "scatter_add": "ifPPP",
    "add_quantize": "iiiqQPPPPP",
    "add_dequantized": "iiiqfPPP",
}
"""The same of kernels/cpu/quick.cpp, which take arrays as objects; f is a float64 there."""
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


class Library:
    """The library at ``path``. ``calls``: each kernel by its name, taking the arguments of its C function.

    For an address they take what ``at`` makes of an array, or None.

    ctypes releases the GIL while a kernel runs. ``sets``: the number of each instruction set that this
    processor can run, by its name, the best last. ``quick``: the kernels of quick.cpp, each with what packs
    its arguments. ``short_row``: those of short_row.cpp (ready, mix), by dtype.
    """

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.hpc_call.restype = ctypes.c_int64
        self._library.hpc_call.argtypes = (ctypes.c_int32, ctypes.c_char_p, ctypes.c_int64)
        self._library.hpc_isa_name.restype = ctypes.c_char_p
        self._offset = DATA if lie_as_known() else 0
        self.at: Callable[[NDArray[Any] | None], int] = _itself if self._offset else _address
        self.calls = {
            name: self._call_of(number, form) for number, (name, form) in enumerate(_KERNELS.items())
        }
        self.quick = {name: self._quick_of(name, form) for name, form in _QUICK.items()}
        self.short_row = {dtype: self._short_row_of(dtype) for dtype in ("f4", "f8")}
        if self._offset:
            # Types and dtypes of NumPy, and None, live as long as the process.
            objects = (np.ndarray, None, *(np.dtype(name) for name in ("f4", "i4", "i8", "u1")))
            self._library.hpc_know((ctypes.c_void_p * 6)(*map(id, objects)))
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

    def _quick_of(self, name: str, form: str) -> tuple[Call, Pack]:
        function = getattr(self._library, f"hpc_quick_{name}")
        function.restype = ctypes.c_double if name == "add_topk" else ctypes.c_int64
        function.argtypes = (ctypes.c_char_p,)
        return function, Struct("<" + "".join((_SLOTS | {"f": "d"})[kind] for kind in form)).pack

    def _short_row_of(self, dtype: str) -> tuple[Call, Call]:
        ready: Call = getattr(self._library, f"hpc_short_row_ready_{dtype}")
        mix = getattr(self._library, f"hpc_short_row_mix_{dtype}")
        mix.restype = None
        return ready, mix


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

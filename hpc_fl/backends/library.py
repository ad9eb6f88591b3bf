"""The compiled C++ kernels: where they are, and the types of their functions."""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from hpc_fl.errors import ConfigError

_I32: Final = ctypes.c_int32
_I64: Final = ctypes.c_int64
_U64: Final = ctypes.c_uint64
_F32: Final = ctypes.c_float
_P: Final = ctypes.c_void_p

_UPDATE: Final = (_I32, _I32, _P, _P, _P, _I64)
"""Instruction set, threads, g, e, c, n. Where there is no e or no c: None."""

_SIGNATURES: Final[dict[str, tuple[type | None, tuple[type, ...]]]] = {
    "hpc_isa_count": (_I32, ()),
    "hpc_isa_name": (ctypes.c_char_p, (_I32,)),
    "hpc_isa_supported": (_I32, (_I32,)),
    "hpc_topk_room": (_I64, (_I64, _I64, _I32)),
    "hpc_add_topk": (_I32, (*_UPDATE, _I64, _F32, _P, _P, _P, _P, _I64, _P)),
    "hpc_add_threshold": (_I32, (*_UPDATE, _F32, _P, _P, _P)),
    "hpc_add_sign": (_I32, (_I32, _I32, _P, _P, _P, _P, _I64, _P, _I64, _P, _P)),
    "hpc_sign_residual": (None, (_I32, _I32, _P, _I64, _P, _I64, _P, _P)),
    "hpc_add_signs": (None, (_I32, _I32, _P, _I64, _P, _I64, _P, _F32, _P)),
    "hpc_majority": (None, (_I32, _P, _I64, _I64, _P)),
    "hpc_add_quantize": (_I32, (*_UPDATE, _I32, _I64, _U64, _P, _P)),
    "hpc_add_dequantized": (None, (_I32, _I32, _P, _P, _I32, _I64, _F32, _P, _I64)),
    "hpc_scatter_add": (_I32, (_I32, _P, _P, _I64, _F32, _P, _I64)),
    "hpc_merge_add": (_I64, (_P, _P, _I64, _P, _P, _I64, _P, _P)),
    "hpc_encode_gaps": (_I64, (_P, _I64, _P)),
    "hpc_decode_gaps": (_I32, (_P, _I64, _I64, _P, _I64, _P)),
    "hpc_encode_mask": (_I32, (_P, _I64, _P, _I64)),
    "hpc_decode_mask": (_I32, (_P, _I64, _P, _I64)),
}


def kernels_folder() -> Path:
    """Where the kernels' sources and the compiled library are: installed, or beside the package."""
    spec = find_spec("hpc_fl._kernels")
    if spec is not None and spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(__file__).parents[2] / "kernels"


def find_library() -> Path | None:
    """The compiled library; None where the package was installed without a compiler."""
    return next(iter(sorted(kernels_folder().glob("_cpu*.so"))), None)


@cache
def load(path: Path | None = None) -> ctypes.CDLL:
    """The library at ``path``, by default the installed one. Raises :class:`ConfigError` where it is missing."""
    found = path or find_library()
    if found is None:
        raise ConfigError(
            "the compiled kernels are not there: install g++ and run pip install again (scripts/setup.sh does both)"
        )
    library = ctypes.CDLL(str(found))
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def instruction_sets(library: ctypes.CDLL) -> dict[str, int]:
    """The number of each instruction set that this processor can run, by its name, the best last."""
    return {
        library.hpc_isa_name(isa).decode(): isa
        for isa in range(library.hpc_isa_count())
        if library.hpc_isa_supported(isa)
    }

"""The one function that chooses a backend."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any, Final

import numpy as np

from hpc_fl.backends.backend import Backend
from hpc_fl.backends.checks import Checked
from hpc_fl.backends.cuda import Cuda
from hpc_fl.backends.library import find_library
from hpc_fl.backends.native import Native
from hpc_fl.backends.quick import Quick
from hpc_fl.backends.reference import Reference
from hpc_fl.errors import ConfigError

BACKEND: Final = "HPC_FL_BACKEND"
"""Environment variable: ``reference`` or ``native``, to have that one on the CPU or an error."""

_CPU: Final[dict[str, Callable[[], Backend]]] = {
    "native": lambda: Quick(Native()),
    "reference": lambda: Checked(Reference(), np.ndarray),
}


def backend_of(array: Any) -> Backend:
    """The backend for arrays of this kind: NumPy's on the CPU, CuPy's on a GPU."""
    return cpu() if isinstance(array, np.ndarray) else _cuda()


@cache
def cpu() -> Backend:
    """The kernels on NumPy arrays: ``native`` where it was built, else ``reference``, which is slow.

    Raises :class:`ConfigError` where the environment asks for one that is not there.
    """
    wanted = os.environ.get(BACKEND) or ("native" if find_library() else "reference")
    if wanted not in _CPU:
        raise ConfigError(f"{BACKEND}: {wanted!r} given, allowed: {', '.join(_CPU)}")
    return _CPU[wanted]()


@cache
def _cuda() -> Backend:
    """The kernels on CuPy arrays. Raises :class:`ConfigError` without CuPy, or without a GPU."""
    backend = Cuda()  # says what to install where there is no CuPy
    return Checked(backend, import_module("cupy").ndarray)

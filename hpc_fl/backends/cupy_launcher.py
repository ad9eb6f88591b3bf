"""Compiles the kernels' sources at first use, for the GPU at hand; launches them on CuPy's current stream.

CuPy keeps what it has compiled in its cache folder, by the hash of source and options and by architecture:
the next process does not compile again.
"""

from __future__ import annotations

from collections.abc import Hashable
from importlib import import_module
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hpc_fl.backends.backend import Array
from hpc_fl.backends.library import kernels_folder
from hpc_fl.errors import ConfigError

# No contraction of a product and a sum into one rounding: the bits are those of the CPU.
OPTIONS: Final = ("--std=c++17", "--fmad=false")
BLOCKS_PER_PROCESSOR: Final = 8
NULL: Final = np.uint64(0)


def source(file: str) -> str:
    """The text of kernels/cuda/``file``.cu with what it includes; :class:`ConfigError` without it."""
    cuda = kernels_folder() / "cuda"
    if not cuda.is_dir():
        raise ConfigError(f"the CUDA kernels were not installed: {cuda} does not exist")
    common = (cuda / "common.cuh").read_text().replace("#pragma once\n", "")
    return (cuda / f"{file}.cu").read_text().replace('#include "common.cuh"\n', common)


class CupyLauncher:
    """See :class:`hpc_fl.backends.cuda.Launcher`."""

    def __init__(self) -> None:
        """Raises :class:`ConfigError` where there is no CuPy, or no GPU for it."""
        try:
            self._cupy = import_module("cupy")
        except ImportError:
            raise ConfigError(
                "the kernels on a GPU need CuPy: pip install cupy-cuda13x (or cupy-cuda12x for CUDA 12)"
            ) from None
        if not self._cupy.cuda.is_available():
            raise ConfigError("CuPy finds no GPU: move the buffers to the CPU, or see `nvidia-smi`")
        self._modules: dict[tuple[int, str], Any] = {}
        self._kernels: dict[tuple[int, str], Any] = {}
        self._resident: dict[int, int] = {}

    @property
    def resident(self) -> int:
        device = self._cupy.cuda.Device()
        if device.id not in self._resident:
            processors = device.attributes["MultiProcessorCount"]
            self._resident[device.id] = processors * BLOCKS_PER_PROCESSOR
        return self._resident[device.id]

    def place(self) -> Hashable:
        return self._cupy.cuda.runtime.getDevice(), self._cupy.cuda.get_current_stream().ptr

    def empty(self, shape: int | tuple[()], dtype: str) -> Array:
        return self._cupy.empty(shape, dtype)

    def zero(self, array: Array) -> None:
        if array.nbytes:
            array.data.memset_async(0, array.nbytes)

    def launch(self, file: str, kernel: str, grid: int, block: int, args: tuple[Any, ...]) -> None:
        device = self._cupy.cuda.runtime.getDevice()
        function = self._kernels.get((device, kernel))
        if function is None:
            if (device, file) not in self._modules:
                self._modules[device, file] = self._cupy.RawModule(code=source(file), options=OPTIONS)
            function = self._kernels[device, kernel] = self._modules[device, file].get_function(kernel)
        function((grid,), (block,), tuple(NULL if x is None else x for x in args))

    def host(self, array: Array) -> NDArray[Any]:
        copied: NDArray[Any] = array.get()
        return copied

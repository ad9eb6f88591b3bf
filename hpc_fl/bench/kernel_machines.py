"""Where kernels are measured: arrays, clocks and yardsticks of the CPU and of a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from hpc_fl.backends import Backend
from hpc_fl.backends.native import Native
from hpc_fl.backends.quick import Quick
from hpc_fl.errors import ConfigError

Work = Callable[[], object]


class Machine(Protocol):
    """A device with its backend. ``tensor`` shares the array's memory."""

    @property
    def backend(self) -> Backend: ...

    @property
    def name(self) -> str: ...

    def array(self, x: NDArray[Any]) -> Any: ...

    def tensor(self, array: Any) -> torch.Tensor: ...

    def seconds(self, work: Work) -> float:
        """How long it takes, until it is done."""
        ...

    def stream(self, g: Any, e: Any, out: Any) -> tuple[str, Work, int]:
        """The yardstick: its name, the work, the bytes that it moves."""
        ...

    def pack_signs(self, c: torch.Tensor) -> Any:
        """Sign bits by the array library's own operations."""
        ...


class Cpu:
    """The native kernels on ``threads`` threads, beside ``torch.add``."""

    name = "cpu"

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self.backend: Backend = Quick(Native())

    def array(self, x: NDArray[Any]) -> NDArray[Any]:
        # In torch's memory, as what runs compress: whole cache lines, where numpy's begins 16 bytes into one.
        # First written by copying: the pages are there before the clock starts.
        copy: NDArray[Any] = torch.from_numpy(x).clone().numpy()
        return copy

    def tensor(self, array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(array)

    def seconds(self, work: Work) -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    def stream(self, g: NDArray[Any], e: NDArray[Any], out: NDArray[Any]) -> tuple[str, Work, int]:
        a, b, y = (torch.from_numpy(x) for x in (g, e, out))
        return "torch.add", lambda: torch.add(a, b, out=y), 12 * g.size

    def pack_signs(self, c: torch.Tensor) -> NDArray[Any]:
        return np.packbits(np.signbit(c.numpy()), bitorder="little")


class Cuda:
    """The CUDA kernels on the current device, beside a copy from and to its memory."""

    name = "cuda"

    def __init__(self) -> None:
        try:
            import cupy
        except ImportError as error:
            raise ConfigError("bench kernels --device cuda needs CuPy: pip install cupy-cuda13x") from error
        if not cupy.cuda.is_available():
            raise ConfigError("bench kernels --device cuda: no GPU found; hpc-fl doctor says what there is")
        from hpc_fl.backends import backend_of

        self._cupy = cupy
        self.backend = backend_of(cupy.empty(0, np.float32))

    def array(self, x: NDArray[Any]) -> Any:
        return self._cupy.asarray(x)

    def tensor(self, array: Any) -> torch.Tensor:
        return torch.utils.dlpack.from_dlpack(array)

    def seconds(self, work: Work) -> float:
        begin, end = self._cupy.cuda.Event(), self._cupy.cuda.Event()
        begin.record()
        work()
        end.record()
        end.synchronize()
        return float(self._cupy.cuda.get_elapsed_time(begin, end)) * 1e-3

    def stream(self, g: Any, e: Any, out: Any) -> tuple[str, Work, int]:
        return "device copy", lambda: self._cupy.copyto(out, g), 8 * int(g.size)

    def pack_signs(self, c: torch.Tensor) -> Any:
        return self._cupy.packbits(self._cupy.signbit(self._cupy.from_dlpack(c)), bitorder="little")


def machine_of(device: str, threads: int) -> Machine:
    """By the name on the command line. Raises :class:`ConfigError` for another one."""
    if device not in ("cpu", "cuda"):
        raise ConfigError(f"bench kernels: device: {device!r} given, allowed: cpu, cuda")
    return Cpu(threads) if device == "cpu" else Cuda()

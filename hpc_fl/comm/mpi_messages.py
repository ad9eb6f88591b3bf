"""Buffers as mpi4py wants them described: [memory, datatype].

mpi4py alone describes a tensor through DLPack, at 15 times the price of a small message. Here descriptions of
tensors are remembered by address, count and dtype, and so stay right whoever owns the memory.
"""

import sys
from typing import Any, Final

import numpy as np
from mpi4py import MPI

from hpc_fl.comm.buffers import NUMBERS, check_reducible, host_array, is_tensor, unusable
from hpc_fl.comm.transport import Buffer
from hpc_fl.errors import TransportError

Message = tuple[Any, ...]

_TYPED: Final = {
    np.dtype(name): datatype
    for name, datatype in {
        "float32": MPI.FLOAT, "float64": MPI.DOUBLE,
        "int8": MPI.INT8_T, "int16": MPI.INT16_T, "int32": MPI.INT32_T, "int64": MPI.INT64_T,
        "uint8": MPI.UINT8_T, "uint16": MPI.UINT16_T, "uint32": MPI.UINT32_T, "uint64": MPI.UINT64_T,
    }.items()
}  # fmt: skip
_MOVED: Final = {
    1: MPI.BYTE, 2: MPI.UINT16_T, 4: MPI.UINT32_T, 8: MPI.UINT64_T, 16: MPI.C_DOUBLE_COMPLEX
}  # fmt: skip
_REMEMBERED: Final = 1024


class TooLarge(TransportError):  # noqa: N818 - reads as the event
    """More elements than one MPI call can count."""


class Messages:
    """Describes buffers for one transport; `limit` is the most elements that one MPI call can count."""

    def __init__(self, limit: int, *, direct_device: bool) -> None:
        self._limit, self._direct_device = limit, direct_device
        self._reduced: dict[object, Message] = {}
        self._moved: dict[object, Message] = {}

    def reduced(self, buf: Buffer) -> Message:
        """A buffer that takes part in a reduction, in place."""
        if not isinstance(buf, np.ndarray):
            return self._tensor(buf, self._reduced)
        datatype = _TYPED.get(buf.dtype)
        if datatype is None or not buf.flags.carray or buf.size > self._limit:
            raise self._refusal(buf, written=True, reduced=True)
        return buf, datatype

    def moved(self, buf: Buffer, *, written: bool = False) -> Message:
        """A buffer that is only copied between ranks; `written` where MPI writes it."""
        if not isinstance(buf, np.ndarray):
            return self._tensor(buf, self._moved)
        dtype, flags = buf.dtype, buf.flags
        usable = flags.carray if written else flags.c_contiguous
        if not usable or dtype.kind not in NUMBERS or buf.size > self._limit:
            raise self._refusal(buf, written=written)
        return buf, _MOVED[dtype.itemsize]

    def _tensor(self, tensor: Any, known: dict[object, Message]) -> Message:
        try:
            key = (tensor.data_ptr(), tensor.numel(), tensor.dtype)
        except (AttributeError, RuntimeError):  # no tensor, or one that is not a piece of memory
            raise self._refusal(tensor) from None
        if not tensor.is_contiguous() or (self._direct_device and not self._device_ready(tensor)):
            raise self._refusal(tensor)
        return known.get(key) or self._remember(key, tensor, known)

    def _remember(self, key: tuple[int, int, object], tensor: Any, known: dict[object, Message]) -> Message:
        address, elements, dtype = key
        reduced = known is self._reduced
        if elements > self._limit or not (tensor.is_cpu or self._direct_device):
            raise self._refusal(tensor, reduced=reduced)
        if reduced:
            check_reducible(tensor)
            datatype = _TYPED[np.dtype(str(dtype).removeprefix("torch."))]
        else:
            datatype = _MOVED[tensor.element_size()]
        if len(known) >= _REMEMBERED:
            known.clear()
        known[key] = message = MPI.buffer.fromaddress(address, elements * tensor.element_size()), datatype
        return message

    @staticmethod
    def _device_ready(tensor: Any) -> bool:
        """Whether MPI may touch a tensor's memory; waits until the device has written it."""
        if tensor.is_cuda:
            sys.modules["torch"].cuda.current_stream(tensor.device).synchronize()
        return bool(tensor.is_cuda or tensor.is_cpu)

    def _refusal(self, buf: Buffer, *, written: bool = False, reduced: bool = False) -> TransportError:
        """Why a buffer cannot be described."""
        tensor: Any = buf
        if not (self._direct_device and is_tensor(tensor) and tensor.is_cuda and tensor.is_contiguous()):
            host_array(buf, written=written)
        if reduced:
            check_reducible(buf)
        if isinstance(buf, np.ndarray) and not buf.flags.aligned:
            return unusable(buf, "its memory is not aligned; pass x.copy()")
        return TooLarge(str(unusable(buf, "MPI counts 2**31 - 1 elements in one message; cut it")))

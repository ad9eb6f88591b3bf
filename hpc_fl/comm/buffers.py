"""What may be sent: checks shared by all transports, and numpy views of tensors. Never imports torch."""

import functools
import sys
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hpc_fl.comm.transport import Buffer
from hpc_fl.errors import TransportError

NUMBERS: Final = "fiubc"
"""numpy's letters for the kinds of dtype that may travel."""
_REDUCIBLE: Final = frozenset(
    ["float32", "float64", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))]
)


def unusable(buf: object, why: str) -> TransportError:
    """The error for a buffer that cannot travel: names its type, dtype and shape."""
    facts = [f"{k} {v}" for k in ("dtype", "shape") if (v := getattr(buf, k, None)) is not None]
    return TransportError(f"cannot exchange a {' '.join([type(buf).__name__, *facts])}: {why}")


@functools.cache
def _reducible(dtype: object) -> bool:
    return str(dtype).removeprefix("torch.") in _REDUCIBLE


def check_reducible(buf: Buffer) -> None:
    """Raise TransportError unless allreduce takes the dtype of `buf`."""
    if not _reducible(buf.dtype):
        raise unusable(buf, "allreduce takes 32- and 64-bit floats and integers; convert it, e.g. to float32")


def is_tensor(buf: object) -> bool:
    """Whether `buf` is a torch tensor."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(buf, torch.Tensor)


def check_rank(rank: int, size: int, what: str) -> None:
    """Raise TransportError unless 0 <= rank < size."""
    if not 0 <= rank < size:
        raise TransportError(f"{what} {rank} is not a rank of this group of {size} (0 to {size - 1})")


def check_counts(counts: Sequence[int], size: int, elements: int, what: str) -> None:
    """Raise TransportError unless there is one count >= 0 per rank and `elements` holds them all."""
    if len(counts) != size or min(counts) < 0:
        raise TransportError(f"{what}: wanted {size} counts >= 0, one per rank, got {list(counts)[:16]}")
    if sum(counts) > elements:
        raise TransportError(f"{what}: the counts sum to {sum(counts)}, the buffer has {elements} elements")


def check_own_count(mine: int, counts: Sequence[int], rank: int) -> None:
    """Raise TransportError unless this rank sends as many elements as `counts` promises to all."""
    if mine != counts[rank]:
        raise TransportError(f"allgather: rank {rank} sends {mine} elements, the counts say {counts[rank]}")


def check_equal_parts(sent: int, received: int, size: int) -> None:
    """Raise TransportError unless both numbers of elements are the same and divide into `size` parts."""
    if sent != received or sent % size:
        raise TransportError(f"alltoall: {sent} and {received} elements are not {size} equal parts each")


def check_same_dtype(send: Buffer, recv: Buffer) -> None:
    """Raise TransportError unless both buffers hold the same type of number."""
    for buf in (send, recv):
        if not (isinstance(buf, np.ndarray) or is_tensor(buf)):
            raise unusable(buf, "pass a numpy array or a torch tensor")
    ours, theirs = (str(buf.dtype).removeprefix("torch.") for buf in (send, recv))
    if ours != theirs:
        raise TransportError(f"send and receive buffers differ in dtype: {ours} and {theirs}")


def elements(buf: Buffer) -> int:
    """How many numbers a buffer holds."""
    return buf.size if isinstance(buf, np.ndarray) else buf.numel()


def host_array(buf: Buffer, *, written: bool = False) -> npt.NDArray[Any]:
    """A numpy view, without a copy, of a C-contiguous numpy array or torch CPU tensor.

    bfloat16, which numpy lacks, appears as int16. Raises TransportError for anything else, and for read-only
    memory that is to be `written`.
    """
    if isinstance(buf, np.ndarray):
        flags = buf.flags
        if not flags.c_contiguous:
            raise unusable(buf, "it is not C-contiguous; pass numpy.ascontiguousarray(x)")
        if written and not flags.writeable:
            raise unusable(buf, "it is read-only and would be written")
        if buf.dtype.kind not in NUMBERS:
            raise unusable(buf, "use arrays of numbers")
        return buf
    if not is_tensor(buf):
        raise unusable(buf, "pass a numpy array or a torch tensor")
    if not buf.is_contiguous():
        raise unusable(buf, "it is not contiguous; pass x.contiguous()")
    if buf.device.type != "cpu":
        raise unusable(buf, f"it is on {buf.device}; this transport takes CPU tensors, pass x.cpu()")
    torch = sys.modules["torch"]
    plain = buf.detach()
    if buf.dtype == torch.bfloat16:
        plain = plain.view(torch.int16)
    array: npt.NDArray[Any] = plain.numpy()
    return array

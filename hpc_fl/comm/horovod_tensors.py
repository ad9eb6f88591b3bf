"""Buffers as Horovod takes them: flat tensors."""

import sys
from typing import TYPE_CHECKING, Final

import numpy as np

from hpc_fl.comm.transport import Buffer

if TYPE_CHECKING:
    from torch import Tensor

WORDS: Final = {1: "uint8", 2: "int16", 4: "int32", 8: "int64"}
"""What travels as which integer, by the bytes of an element."""


def dtype_name(buf: Buffer) -> str:
    """The name of the dtype, the same for numpy and torch."""
    return str(buf.dtype).removeprefix("torch.")


def flat_tensor(buf: Buffer, word: str | None = None) -> "Tensor":
    """A flat view of a contiguous buffer, its elements seen as `word`; read-only arrays are copied."""
    torch = sys.modules["torch"]
    if isinstance(buf, np.ndarray):
        flat = buf.reshape(-1) if word is None else buf.reshape(-1).view(word)
        tensor: Tensor = torch.from_numpy(flat if flat.flags.writeable else flat.copy())
    else:
        plain = buf.detach().reshape(-1)
        tensor = plain if word is None else plain.view(getattr(torch, word))
    return tensor

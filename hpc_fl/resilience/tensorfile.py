"""Named tensors in one safetensors file (https://huggingface.co/docs/safetensors).

The library's own writer copies every tensor and refuses views of one buffer, which is what flat parameters
are; this one streams each tensor from where it lies. Reading is the library's.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hpc_fl.errors import CheckpointError
from hpc_fl.resilience.durable import DamagedError, FileRecord, verify, write_durably

DTYPES: Final[Mapping[torch.dtype, str]] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_RESERVED = "__metadata__"


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> FileRecord:
    """Write `tensors` to `path` and wait for the disk.

    Raises CheckpointError for a dtype not in DTYPES or the name that the format reserves, and OSError.
    """
    # The library's order: with wider elements first, each tensor is aligned for whoever maps the file.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    return write_durably(path, _chunks({name: tensors[name] for name in names}))


def read_tensors(path: Path, record: FileRecord, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    """Verify all of `path` against `record`, then return the tensors whose names are `wanted`, on the CPU.

    Raises DamagedError, naming the file, when anything differs; OSError when it cannot be read.
    """
    verify(path, record)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            # Cloned: the library maps the file, and a snapshot must outlive it.
            return {name: file.get_tensor(name).clone() for name in file.keys() if wanted(name)}  # noqa: SIM118
    except SafetensorError as error:
        raise DamagedError(f"{path.name} is not a safetensors file: {error}") from error


def _chunks(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    yield _header(tensors)
    for tensor in tensors.values():
        raw = tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8)
        yield raw.numpy().data


def _header(tensors: Mapping[str, Tensor]) -> bytes:
    entries: dict[str, dict[str, object]] = {}
    offset = 0
    for name, tensor in tensors.items():
        if name == _RESERVED or tensor.dtype not in DTYPES:
            allowed = ", ".join(str(dtype) for dtype in DTYPES)
            raise CheckpointError(
                f"tensor {name!r} of {tensor.dtype} cannot be written: use another name than {_RESERVED!r} "
                f"and one of {allowed}"
            )
        end = offset + tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text

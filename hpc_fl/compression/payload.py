"""What travels: typed arrays behind a fixed binary header. Never a pickle.

::

    header  magic 4s | version u8 | codec u8 | parts u16 | n u64 | body bytes u64 | crc32 u32
    table   for each part: dtype code u8 | elements u64
    body    the parts one after another, no padding

All integers are little-endian; the checksum covers the header (its own field as zero), the table and the
body.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hpc_fl.errors import WireError

_HEADER: Final = struct.Struct("<4sBBHQQI")
_PART: Final = struct.Struct("<BQ")
_MAGIC: Final = b"HFLP"
_VERSION: Final = 1
_CODES: Final[dict[str, int]] = {"<f4": 1, "<f2": 2, "|u1": 3, "<i4": 4, "<u2": 5, "<u4": 6, "<i8": 7}
_DTYPES: Final = {code: np.dtype(name) for name, code in _CODES.items()}


@dataclass(frozen=True)
class Payload:
    """An encoded buffer: ``codec`` id (0 to 255), ``n`` elements of the flat buffer it stands for, one-
    dimensional ``parts``.
    """

    codec: int
    n: int
    parts: tuple[NDArray[Any], ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the body: what the byte formulas count (header apart)."""
        return sum(part.nbytes for part in self.parts)

    def tobytes(self) -> bytes:
        """The wire format. Raises :class:`WireError` for a part whose dtype the format does not have."""
        table = b"".join(_PART.pack(_code_of(part), part.size) for part in self.parts)
        body = b"".join(np.ascontiguousarray(part).tobytes() for part in self.parts)
        fields = (_MAGIC, _VERSION, self.codec, len(self.parts), self.n, len(body))
        checksum = zlib.crc32(body, zlib.crc32(_HEADER.pack(*fields, 0) + table))
        return _HEADER.pack(*fields, checksum) + table + body

    @classmethod
    def frombytes(cls, data: bytes | bytearray | memoryview) -> Payload:
        """The inverse of :meth:`tobytes`; the parts are read-only views of ``data``.

        Raises :class:`WireError` for anything that :meth:`tobytes` did not make: truncated, too long,
        altered, foreign.
        """
        view = memoryview(data).toreadonly().cast("B")
        if len(view) < _HEADER.size:
            raise WireError(f"payload of {len(view)} bytes is shorter than its header ({_HEADER.size} bytes)")
        magic, version, codec, count, n, size, checksum = _HEADER.unpack_from(view)
        if magic != _MAGIC or version != _VERSION:
            raise WireError(f"not a payload of format {_VERSION}: starts with {magic!r}, version {version}")
        start = _HEADER.size + count * _PART.size
        if len(view) != start + size:
            raise WireError(
                f"payload has {len(view)} bytes, its header promises {start + size}: truncated or too long"
            )
        unsigned = _HEADER.pack(magic, version, codec, count, n, size, 0)
        if zlib.crc32(view[_HEADER.size :], zlib.crc32(unsigned)) != checksum:
            raise WireError("payload checksum does not match: altered on the way")
        return cls(codec, n, _parts(view, count, start))


def _code_of(part: NDArray[Any]) -> int:
    try:
        return _CODES[part.dtype.str]
    except KeyError:
        raise WireError(f"a payload cannot hold {part.dtype}; allowed: {', '.join(_CODES)}") from None


def _parts(view: memoryview, count: int, offset: int) -> tuple[NDArray[Any], ...]:
    parts = []
    for index in range(count):
        code, size = _PART.unpack_from(view, _HEADER.size + index * _PART.size)
        dtype = _DTYPES.get(code)
        if dtype is None or size * dtype.itemsize > len(view) - offset:
            raise WireError(
                f"payload part {index} (dtype code {code}, {size} elements) does not fit its body"
            )
        parts.append(np.frombuffer(view, dtype, size, offset))
        offset += size * dtype.itemsize
    if offset != len(view):
        raise WireError(f"payload body has {len(view) - offset} bytes that belong to no part")
    return tuple(parts)

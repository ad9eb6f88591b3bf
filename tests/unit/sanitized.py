"""Run by test_native_sanitizer.py under AddressSanitizer: the kernels' laws, and payloads with flipped bits.

Usage: ``sanitized.py LIBRARY FLIPS``.
"""

import sys
import zlib
from pathlib import Path

import numpy as np
from laws.kernel_checks import Host, Placed, Subject
from laws.kernels import HOSTILE, LAWS

from hpc_fl.backends import choice
from hpc_fl.backends.checks import Checked
from hpc_fl.backends.library import load
from hpc_fl.backends.native import Native
from hpc_fl.backends.quick import Quick
from hpc_fl.backends.short_row import NativeShortRow
from hpc_fl.compression import QSGD, Chain, OneBit, Payload, Ternary, TopK, decode
from hpc_fl.errors import WireError

SIZES = (0, 9, 33, 4097)


class Exact(Subject):
    """Arrays of a law lie inside larger ones; here each is an allocation of its own."""

    def place(self, x: Host, shift: int = 0) -> Placed:
        alone = x.copy(order="C")
        return Placed(self, alone, alone, 0)


def laws(library: Path) -> None:
    for isa in load(library).sets:
        native = Native(isa, 2, library)
        for backend in (Checked(native, np.ndarray), Quick(native)):
            subject = Exact(backend, lambda x: x, lambda x: x)
            for hostile in HOSTILE.values():
                hostile(subject)
            for n in SIZES:
                for law in LAWS.values():
                    law(subject, n)


def short_rows(library: Path) -> None:
    for n in (1, 7, 64, 4097):
        for dtype in (np.float32, np.float64):
            for sources in (0, 1, 3):
                row = NativeShortRow(
                    np.ones(n, dtype), np.empty((sources, n), dtype), 0.5, [0.1] * sources, library
                )
                assert row.ready()
                row.mix()


def flipped(data: bytes, bit: int) -> bytes:
    spoilt = bytearray(data)
    spoilt[bit // 8] ^= 1 << bit % 8
    return bytes(spoilt)


def with_checksum(data: bytes) -> bytes:
    """As a hostile peer sends it: altered, and signed again. The checksum is the header's last field."""
    at = 26
    blank = data[:at] + bytes(4) + data[at + 4 :]
    return data[:at] + zlib.crc32(blank).to_bytes(4, "little") + data[at + 4 :]


def payloads(flips: int) -> int:
    """Decode payloads with one bit flipped; how many of them were refused."""
    random = np.random.default_rng(0)
    x = random.standard_t(2, 777).astype(np.float32)
    refused = 0
    good = TopK(k=40).encode(x).tobytes()
    assert with_checksum(good) == good
    codecs = (
        TopK(k=40),
        TopK(ratio=0.5),
        OneBit(block=64),
        QSGD(3),
        Ternary(k=30),
        Chain(TopK(k=50), QSGD(4)),
    )
    for codec in codecs:
        data = codec.encode(x).tobytes()
        for bit in random.permutation(8 * len(data))[:flips].tolist():
            spoilt = flipped(data, bit)
            for attempt in (spoilt, with_checksum(spoilt)):
                out = np.full(x.size, 7, np.float32)
                try:
                    decode(Payload.frombytes(attempt), out)
                except WireError:
                    refused += 1
                    assert (out == 7).all(), "a refused payload was partly decoded"
    return refused


if __name__ == "__main__":
    path = Path(sys.argv[1])
    choice._CPU["native"] = lambda: Quick(Native(library=path))
    laws(path)
    short_rows(path)
    print("refused", payloads(int(sys.argv[2])))

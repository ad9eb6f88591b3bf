"""The kernels on a GPU: the host's part. kernels/cuda holds the device's, and says what each launch moves.

No call waits for the device, but for those that return an int and :meth:`Cuda.check`. Working memory is taken
once for each purpose, thread and stream, and kept.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from hpc_fl.backends.backend import Array
from hpc_fl.errors import HpcFlError, NotFiniteError, WireError

THREADS: Final = 256
"""Of a block; common.cuh has the same constants."""
TILE: Final = 4096
"""Elements that a block of a selecting pass takes, four runs of four a thread."""
ITEMS: Final = 4 * THREADS
"""The same where a thread takes one element of each run."""
SAMPLE_THREADS: Final = 1024
TOPK_WORDS: Final = 24616 // 8
"""struct TopK of topk.cu."""
GAPS_WORDS: Final = 24 // 8
"""struct Gaps of index.cu."""
CHUNK: Final = 1024
"""Elements of a warp in sign.cu."""
WARPS: Final = THREADS // 32
SMALL_BLOCK: Final = 1024
"""The largest block of quantisation that a warp takes in registers."""
MERGED: Final = 8 * THREADS
"""Pairs that a block merges."""


class Launcher(Protocol):
    """What runs kernels: CuPy on a GPU, an interpreter in the tests."""

    @property
    def resident(self) -> int:
        """Blocks of 256 threads that fill the device."""
        ...

    def place(self) -> Hashable:
        """The device and stream that calls of this thread go to now."""
        ...

    def empty(self, shape: int | tuple[()], dtype: str) -> Array: ...

    def zero(self, array: Array) -> None: ...

    def launch(self, file: str, kernel: str, grid: int, block: int, args: tuple[Any, ...]) -> None:
        """Queues ``kernel`` of kernels/cuda/``file``.cu; args are arrays, None, or NumPy scalars."""
        ...

    def host(self, array: Array) -> NDArray[Any]:
        """A copy in the host's memory, once all that was queued is done."""
        ...


class Cuda:
    """See :class:`hpc_fl.backends.backend.Backend`, whose docstrings define each function.

    Errors are noted on the device for the calling thread's current stream: check on the stream of the calls.
    """

    name = "cuda"

    def __init__(self, launcher: Launcher | None = None) -> None:
        """Raises :class:`ConfigError` where there is no CuPy or no device."""
        if launcher is None:
            from hpc_fl.backends.cupy_launcher import CupyLauncher

            launcher = CupyLauncher()
        self._launcher = launcher
        self._local = threading.local()

    def empty(self, size: int, dtype: str) -> Array:
        return self._launcher.empty(size, dtype)

    def check(self) -> None:
        self._read()

    def add_topk(
        self,
        g: Array,
        e: Array | None,
        c: Array | None,
        indices: Array,
        values: Array,
        hint: float | Array = 0.0,
    ) -> Array:
        n, k = np.int64(g.size), np.uint32(indices.size)
        # Half as many again as wanted, and what a hint that was lowered by 6% lets through for small k.
        room = min(g.size, indices.size + indices.size // 2 + g.size // 64)
        tiles, emits = _parts(g.size, TILE), _parts(g.size, ITEMS)
        state = self._zeros("topk", TOPK_WORDS + tiles + emits)
        collected, emitted = state[TOPK_WORDS:], state[TOPK_WORDS + tiles :]
        size = min(g.size, room + indices.size)
        listed, found = self._memory("indices", size, "int32"), self._memory("values", size, "float32")
        least = self._launcher.empty((), "float32")
        here = isinstance(hint, type(g)) and hint.dtype == "float32"
        known, start = (hint, _single(0)) if here else (None, _single(float(hint)))
        self._run("topk", "topk_sample", 1, (g, e, n, k, start, known, state), SAMPLE_THREADS)
        collect = (g, e, c, n, k, np.uint32(room), listed, found, state, collected, self._status())
        self._run("topk", "topk_collect", tiles, collect)
        for level in range(3):
            args = (np.int32(level), found, g, e, c, state)
            self._run("topk", "topk_digit", min(emits, self._launcher.resident), args)
        emit = (listed, found, g, e, c, k, indices, values, least, state, emitted)
        self._run("topk", "topk_emit", min(emits, self._launcher.resident), emit)
        return least

    def add_threshold(
        self, g: Array, e: Array | None, c: Array | None, tau: float, indices: Array, values: Array
    ) -> int:
        tiles = _parts(g.size, TILE)
        state = self._zeros("scan", 1 + tiles)
        args = (g, e, c, np.int64(g.size), _single(tau), indices, values, state, state[1:], self._status())
        self._run("threshold", "threshold_select", tiles, args)
        return self._read()

    def add_sign(
        self,
        g: Array,
        e: Array | None,
        e_scales: Array | None,
        c: Array | None,
        bounds: Array,
        bits: Array,
        scales: Array,
    ) -> None:
        n, segments = np.int64(g.size), np.int64(scales.size)
        chunks = _parts(g.size, CHUNK)
        sums = self._memory("sums", chunks + scales.size, "float64")
        args = (g, e, e_scales, c, n, bounds, segments, bits, sums, self._status())
        self._run("sign", "sign_pack", _parts(chunks, WARPS), args)
        # Few segments have many partial sums each, and a block adds up one; else a thread does.
        each = 1 if scales.size <= 4096 else THREADS
        self._run(
            "sign",
            "sign_scales",
            _parts(scales.size, each),
            (sums, bounds, segments, np.int32(each), scales),
        )

    def sign_residual(self, c: Array, bounds: Array, scales: Array, out: Array) -> None:
        args = (c, np.int64(c.size), bounds, np.int64(scales.size), scales, out)
        self._run("sign", "sign_residual", _parts(c.size, CHUNK * WARPS), args)

    def add_signs(self, bits: Array, bounds: Array, scales: Array, weight: float, out: Array) -> None:
        args = (bits, np.int64(out.size), bounds, np.int64(scales.size), scales, _single(weight), out)
        self._run("sign", "sign_add", _parts(out.size, CHUNK * WARPS), args)

    def majority(self, rows: Array, out: Array) -> None:
        args = (rows, np.uint32(rows.shape[0]), np.int64(out.size), out)
        self._run("sign", "sign_majority", _parts(out.size, ITEMS), args)

    def scatter_add(self, indices: Array, values: Array, weight: float, out: Array) -> None:
        k, n = np.int64(indices.size), np.int64(out.size)
        found, grid = self._zeros("scan", 1), _parts(indices.size, THREADS)
        self._run("sparse", "sparse_check", grid, (indices, values, k, n, found))
        args = (indices, values, k, _single(weight), out, n, found, self._status())
        self._run("sparse", "sparse_scatter", grid, args)

    def merge_add(
        self,
        a_indices: Array,
        a_values: Array,
        b_indices: Array,
        b_values: Array,
        indices: Array,
        values: Array,
    ) -> int:
        tiles = _parts(a_indices.size + b_indices.size, MERGED)
        state = self._zeros("scan", 1 + tiles)
        a, b = (
            (a_indices, a_values, np.int64(a_indices.size)),
            (b_indices, b_values, np.int64(b_indices.size)),
        )
        args = (*a, *b, indices, values, state, state[1:], self._status())
        self._run("sparse", "sparse_merge", tiles, args)
        return self._read()

    def add_quantize(
        self,
        g: Array,
        e: Array | None,
        c: Array | None,
        width: int,
        block: int,
        key: int,
        codes: Array,
        scales: Array,
    ) -> None:
        n, number, status = np.int64(g.size), np.uint64(key), self._status()
        bits, size = np.int32(width), np.int64(block)
        if block <= SMALL_BLOCK:
            lanes = min(32, 1 << (block // 8 - 1).bit_length())
            small = (g, e, c, n, bits, np.int32(block), np.int32(lanes), number, codes, scales, status)
            self._run("quantize", "quantize_small", _parts(scales.size, WARPS * (32 // lanes)), small)
            return
        self._launcher.zero(scales)
        first = (g, e, n, size, scales, status)
        self._run("quantize", "quantize_scale", _parts(g.size, SMALL_BLOCK * WARPS), first)
        large = (g, e, c, n, bits, size, number, codes, scales)
        self._run("quantize", "quantize_large", _parts(g.size, 8 * THREADS), large)

    def add_dequantized(
        self, codes: Array, scales: Array, width: int, block: int, weight: float, out: Array
    ) -> None:
        n = np.int64(out.size)
        args = (codes, scales, np.int32(width), np.int64(block), _single(weight), out, n)
        self._run("quantize", "quantize_add", _parts(out.size, 8 * THREADS), args)

    def encode_gaps(self, indices: Array, out: Array) -> int:
        tiles = _parts(indices.size, ITEMS)
        state = self._zeros("scan", 1 + tiles)
        args = (indices, np.int64(indices.size), out, state, state[1:], self._status())
        self._run("index", "gaps_encode", tiles, args)
        return self._read()

    def decode_gaps(self, code: Array, n: int, indices: Array) -> None:
        tiles = _parts(code.size, ITEMS)
        state = self._zeros("scan", GAPS_WORDS + 2 * tiles)
        counts, sums = state[GAPS_WORDS:], state[GAPS_WORDS + tiles :]
        size, limit, k = np.int64(code.size), np.int64(n), np.int64(indices.size)
        self._run("index", "gaps_decode", tiles, (code, size, limit, k, indices, state, counts, sums))
        self._run("index", "gaps_finish", 1, (code, size, limit, k, state, self._status()), 32)

    def encode_mask(self, indices: Array, mask: Array) -> None:
        self._launcher.zero(mask)
        args = (indices, np.int64(indices.size), mask, np.int64(mask.size))
        self._run("index", "mask_encode", _parts(indices.size, THREADS), args)

    def decode_mask(self, mask: Array, n: int, indices: Array) -> None:
        tiles = _parts(mask.size, TILE)
        state = self._zeros("scan", 1 + tiles)
        sizes = (np.int64(mask.size), np.int64(n), np.int64(indices.size))
        self._run("index", "mask_decode", tiles, (mask, *sizes, indices, state, state[1:], self._status()))

    def _run(self, file: str, kernel: str, grid: int, args: tuple[Any, ...], block: int = THREADS) -> None:
        self._launcher.launch(file, kernel, grid, block, args)

    def _memory(self, purpose: str, size: int, dtype: str) -> Array:
        """Room for ``size`` elements or more, of what the last call with this purpose left."""
        kept: dict[Hashable, Array] = self._local.__dict__.setdefault("kept", {})
        key = (purpose, self._launcher.place())
        if key not in kept or kept[key].size < size:
            kept[key] = self._launcher.empty(max(size, 1), dtype)
        return kept[key]

    def _zeros(self, purpose: str, words: int) -> Array:
        """``words`` zeros of 64 bits."""
        zeros = self._memory(purpose, words, "uint64")[:words]
        self._launcher.zero(zeros)
        return zeros

    def _status(self) -> Array:
        """Four words of 64 bits: the first error, its two numbers, the int that a call returns."""
        kept: dict[Hashable, Array] = self._local.__dict__.setdefault("statuses", {})
        place = self._launcher.place()
        if place not in kept:
            kept[place] = self._launcher.empty(4, "uint64")
            self._launcher.zero(kept[place])
        return kept[place]

    def _read(self) -> int:
        """Waits; raises the first error noted, and forgets it. The last call's int."""
        status = self._status()
        code, a, b, result = (int(word) for word in self._launcher.host(status))
        if code:
            self._launcher.zero(status)
            raise _error(code, a, b)
        return result


def _parts(size: int, part: int) -> int:
    """How many parts cover ``size``: at least one, since a grid cannot be empty."""
    return max(1, -(-size // part))


def _single(x: float) -> np.float32:
    """Infinite where it is too large."""
    with np.errstate(over="ignore"):
        return np.float32(x)


def _error(code: int, a: int, b: int) -> HpcFlError:
    """The same words as the reference has; codes as in common.cuh."""
    if code == 1:
        return NotFiniteError("the update, or what was kept back of earlier ones, is not finite")
    texts = {
        2: f"indices of a sparse payload must ascend within 0..{a - 1}",
        3: "a sparse payload holds a value that is not finite",
        4: f"gaps lead to more than {a} indices below {b}",
        5: "a gap takes more than 5 bytes",
        6: f"gaps end after {a} of {b} indices",
        7: f"mask has {a} bits set, {b & 0xFFFFFFFF} below {b >> 32} expected",
    }
    return WireError(texts[code])

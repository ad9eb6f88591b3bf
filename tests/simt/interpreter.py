"""Builds kernels/cuda/*.cu for the CPU with simt.h, and launches them on NumPy arrays."""

from __future__ import annotations

import ctypes
import re
import subprocess
from collections.abc import Hashable
from concurrent.futures import ThreadPoolExecutor
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

HERE: Final = Path(__file__).parent
SOURCES: Final = HERE.parents[1] / "kernels" / "cuda"
FILES: Final = tuple(sorted(path.stem for path in SOURCES.glob("*.cu")))
FLAGS: Final = (
    *("-std=c++17", "-O1", "-g", "-fPIC", "-shared", "-fno-strict-aliasing"),
    # As on the GPU, each operation rounds.
    "-ffp-contract=off",
    *("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-Wno-unused-function"),
)
SANITIZE: Final = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")

ENTRIES: Final = """
static const simt::Entry entries[] = {{{}}};
extern "C" int simt_launch(const char* name, unsigned grid, unsigned block, void** arguments, int order,
                           unsigned seed, char* message, size_t room) {{
    return simt::launch(entries, sizeof entries / sizeof *entries, name, grid, block, arguments, order, seed,
                        message, room);
}}
"""


class SimtError(Exception):
    """A kernel would hang, or misuses the machine."""


class Order(IntEnum):
    """Of blocks and threads; ``SHUFFLED`` also runs three blocks in turn."""

    FORWARD = 0
    REVERSE = 1
    SHUFFLED = 2


def build(
    folder: Path, files: tuple[str, ...] = FILES, *, sources: Path = SOURCES, sanitize: bool = False
) -> None:
    """A library for each file, in ``folder``, two at a time. Raises with the compiler's words."""

    def compile_one(file: str) -> None:
        names = re.findall(r"^KERNEL\(\w+\)\s*(\w+)\(", (sources / f"{file}.cu").read_text(), re.MULTILINE)
        entries = ", ".join(f'{{"{name}", [](void** a) {{ simt::call(&{name}, a); }}}}' for name in names)
        unit = folder / f"{file}.cpp"
        unit.write_text(f'#include "{sources / file}.cu"\n' + ENTRIES.format(entries))
        flags = (*FLAGS, *(SANITIZE if sanitize else ()), "-include", str(HERE / "simt.h"))
        done = subprocess.run(
            ["g++", *flags, "-o", str(folder / f"lib{file}.so"), str(unit)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stderr)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(compile_one, files))


class Interpreter:
    """A :class:`hpc_fl.backends.cuda.Launcher` over NumPy arrays."""

    resident = 3

    def __init__(
        self, folder: Path, order: Order = Order.FORWARD, seed: int = 1, *, exact: bool = False
    ) -> None:
        """``exact``: each launch works on copies that end where the arrays end, for a sanitizer to see."""
        self._folder, self._order, self._seed, self._exact = folder, order, seed, exact
        self._libraries: dict[str, ctypes.CDLL] = {}
        self.launches: list[str] = []

    def place(self) -> Hashable:
        return "cpu"

    def empty(self, shape: int | tuple[()], dtype: str) -> NDArray[Any]:
        """Filled with what nobody should read."""
        array = np.empty(shape, dtype)
        array.reshape(-1).view(np.uint8).fill(0xC7)
        return array

    def zero(self, array: NDArray[Any]) -> None:
        array.fill(0)

    def host(self, array: NDArray[Any]) -> NDArray[Any]:
        return array.copy()

    def launch(self, file: str, kernel: str, grid: int, block: int, args: tuple[Any, ...]) -> None:
        """Raises :class:`SimtError`."""
        self.launches.append(kernel)
        self._seed += 1
        copies = _Copies() if self._exact else None
        holders = [_holder(copies.of(x) if copies else x) for x in args]
        pointers = (ctypes.c_void_p * len(args))(*(ctypes.addressof(h) for h in holders))
        message = ctypes.create_string_buffer(300)
        failed = self._library(file).simt_launch(
            kernel.encode(), grid, block, pointers, int(self._order), self._seed, message, len(message)
        )
        if failed:
            raise SimtError(message.value.decode())
        if copies:
            copies.back()

    def _library(self, file: str) -> ctypes.CDLL:
        if file not in self._libraries:
            self._libraries[file] = ctypes.CDLL(str(self._folder / f"lib{file}.so"))
        return self._libraries[file]


class _Copies:
    """Arrays copied to memory of their own size, the same for the same array, and back."""

    def __init__(self) -> None:
        self._pairs: dict[tuple[int, int], tuple[NDArray[Any], NDArray[Any]]] = {}

    def of(self, x: Any) -> Any:
        if not isinstance(x, np.ndarray):
            return x
        key = (x.ctypes.data, x.nbytes)
        if key not in self._pairs:
            shift = x.ctypes.data % 16
            memory = np.empty(shift + x.nbytes, np.uint8)
            copy = memory[shift:].view(x.dtype).reshape(x.shape)
            copy[...] = x
            self._pairs[key] = (x, copy)
        return self._pairs[key][1]

    def back(self) -> None:
        for array, copy in self._pairs.values():
            array[...] = copy


def _holder(x: Any) -> Any:
    """Where an argument's value lies, as the kernel's parameter has it."""
    if x is None or isinstance(x, np.ndarray):
        return ctypes.c_void_p(None if x is None else x.ctypes.data)
    raw = x.tobytes()
    return (ctypes.c_char * len(raw)).from_buffer_copy(raw)

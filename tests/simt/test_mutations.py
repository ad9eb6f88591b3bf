"""The checks can fail: each of these mistakes, made in a copy of a kernel, is caught."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from laws.kernels import HOSTILE, LAWS
from simt.interpreter import FILES, SOURCES, Order, SimtError, build
from simt.subject import subject

from hpc_fl.errors import HpcFlError


class Mutation(NamedTuple):
    where: str
    old: str
    new: str
    file: str
    law: str


MUTATIONS = [
    Mutation(
        "common.cuh",
        "counts[j] = all - counts[j];\n    }\n    __syncthreads();",
        "counts[j] = all - counts[j];\n    }",
        "threshold",
        "threshold",
    ),
    Mutation(
        "common.cuh",
        "shared.tile = atomicAdd",
        "shared.tile = blockIdx.x + 0 * atomicAdd",
        "threshold",
        "threshold",
    ),
    Mutation("topk.cu", "m == threshold)", "m == threshold + 1)", "topk", "topk"),
    Mutation("topk.cu", "equal >= ties)", "equal > ties)", "topk", "topk"),
    Mutation(
        "topk.cu",
        "    __syncthreads();\n    find_digit(bins, rank",
        "    find_digit(bins, rank",
        "topk",
        "topk",
    ),
    Mutation("topk.cu", "bad |= m >= INFINITE;", "", "topk", "not_finite"),
    Mutation("sign.cu", "(lane() & 3) * 8", "(lane() & 3) * 8 + 8", "sign", "sign"),
    Mutation("sign.cu", "partials[chunk.number + s] = sum", "partials[chunk.number] = sum", "sign", "sign"),
    Mutation("quantize.cu", "x += rule.key1;", "", "quantize", "quantize"),
    Mutation("sparse.cu", "a.indices[i - 1] != b.indices[j]", "true", "sparse", "merge"),
    Mutation("sparse.cu", "index <= before", "index < before", "sparse", "scatter"),
    Mutation("index.cu", "d <= 4 && p >= d", "d <= 3 && p >= d", "index", "gaps"),
]


def caught(folder: Path, law: str) -> bool:
    """By the laws, at a small and a larger size, in any order of threads."""
    for order in Order:
        on = subject(folder, order)
        try:
            for n in (257, 5003):
                LAWS[law](on, n)
            if law in HOSTILE:
                HOSTILE[law](on)
        except (AssertionError, SimtError, HpcFlError, pytest.fail.Exception):
            return True
    return False


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[f"{m.where}: {m.new[-40:] or m.old}" for m in MUTATIONS])
def test_a_mistake_is_caught(tmp_path: Path, mutation: Mutation, need: Callable[[object, str], None]) -> None:
    need(shutil.which("g++"), "g++")
    for name in ("common.cuh", *(f"{file}.cu" for file in FILES)):
        shutil.copy(SOURCES / name, tmp_path)
    spoilt = tmp_path / mutation.where
    assert spoilt.read_text().count(mutation.old) == 1, "the place is not what it was: choose it again"
    spoilt.write_text(spoilt.read_text().replace(mutation.old, mutation.new))
    build(tmp_path, (mutation.file,), sources=tmp_path)
    assert caught(tmp_path, mutation.law)

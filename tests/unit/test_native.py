"""The C++ kernels are the reference, on every instruction set and number of threads."""

from collections.abc import Iterator

import numpy as np
import pytest
from laws.kernels import HOSTILE, LAWS, SIZES, Subject, data_of, law_topk

from hpc_fl.backends.checks import Checked
from hpc_fl.backends.library import load
from hpc_fl.backends.native import Native
from hpc_fl.errors import ConfigError

SETS = tuple(load().sets)


@pytest.fixture(params=[(isa, threads) for isa in SETS for threads in (1, 3)], ids=lambda p: f"{p[0]}-{p[1]}")
def subject(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Subject]:
    isa, threads = request.param
    monkeypatch.setattr("hpc_fl.backends.native._PER_THREAD", 1)
    return Subject(Checked(Native(isa, threads), np.ndarray), lambda x: x, lambda x: x)


@pytest.mark.parametrize("law", LAWS)
def test_equals_the_reference(subject: Subject, law: str) -> None:
    for n in SIZES:
        LAWS[law](subject, n)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_refuses_what_a_peer_may_send(subject: Subject, hostile: str) -> None:
    HOSTILE[hostile](subject)


@pytest.mark.parametrize("law", LAWS)
def test_equals_the_reference_over_many_blocks(subject: Subject, law: str) -> None:
    """Parts of several threads, samples smaller than the buffer, guesses that fail."""
    for n in (12_289, 70_001):
        LAWS[law](subject, n)

"""The Horovod transport without Horovod: requests over one that is made up, and what is said of none."""

import sys
import types
from typing import Any, get_args

import numpy as np
import pytest
import torch

from hpc_fl.comm.horovod_requests import HorovodRequest
from hpc_fl.comm.horovod_start import load_horovod
from hpc_fl.comm.horovod_tensors import flat_tensor
from hpc_fl.comm.runtime import TRANSPORTS, check_installed, start
from hpc_fl.config.run import Comm
from hpc_fl.errors import ConfigError, TransportError, TransportTimeout


class MadeUp:
    """horovod.torch with one operation: complete after so many polls, then returning or raising."""

    def __init__(self, polls: int, outcome: object) -> None:
        self.polls, self.outcome, self.synchronized = polls, outcome, 0

    def poll(self, handle: int) -> bool:
        assert handle == 7
        self.polls -= 1
        return self.polls < 0

    def synchronize(self, handle: int) -> object:
        self.synchronized += 1
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


def request(hvd: MadeUp, limit: float | None = None, finish: Any = None) -> HorovodRequest:
    return HorovodRequest(hvd, 7, "rank 0: something", limit, finish)


def test_the_result_is_finished_once() -> None:
    got: list[object] = []
    hvd = MadeUp(300, "result")
    pending = request(hvd, finish=got.append)
    assert not pending.done()
    pending.wait()
    pending.wait()
    assert pending.done()
    assert (got, hvd.synchronized) == (["result"], 1)


def test_a_wait_that_gave_up_can_be_made_again() -> None:
    hvd = MadeUp(10**9, None)
    pending = request(hvd, limit=0.01)
    for timeout in (None, 0.02):
        with pytest.raises(TransportTimeout, match=r"rank 0: something: not complete within 0\.0"):
            pending.wait(timeout)
    hvd.polls = 0
    pending.wait()


@pytest.mark.parametrize("error", [RuntimeError("it broke\nat line 1"), ValueError("it broke")])
def test_a_failure_stays_one(error: Exception) -> None:
    pending = request(MadeUp(0, error))
    for call in (pending.wait, pending.done, pending.wait):
        with pytest.raises(TransportError) as raised:
            call()
        assert str(raised.value) == "rank 0: something failed: it broke"


def test_a_refused_result_is_a_failure() -> None:
    def refuse(_result: object) -> None:
        raise TransportError("not what was agreed")

    pending = request(MadeUp(0, None), finish=refuse)
    for call in (pending.wait, pending.done):
        with pytest.raises(TransportError, match="not what was agreed"):
            call()


def test_every_configured_transport_has_its_maker() -> None:
    assert set(get_args(Comm.model_fields["transport"].annotation)) == set(TRANSPORTS)
    assert Comm().transport == "mpi"


def test_alone_there_is_nothing_to_carry() -> None:
    assert start(transport="horovod").name == "in-process"


def test_a_missing_horovod_is_a_mistake_of_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "horovod", None)
    monkeypatch.delitem(sys.modules, "horovod.torch", raising=False)
    check_installed("mpi")
    for look in (lambda: check_installed("horovod"), load_horovod):
        with pytest.raises(
            ConfigError, match=r"comm\.transport: got 'horovod', .*install_horovod\.sh"
        ) as raised:
            look()
        assert "\n" not in str(raised.value)


def test_a_horovod_without_mpi_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    package, module = types.ModuleType("horovod"), types.ModuleType("horovod.torch")
    vars(module)["mpi_built"] = lambda: False
    vars(package)["torch"] = module
    monkeypatch.setitem(sys.modules, "horovod", package)
    monkeypatch.setitem(sys.modules, "horovod.torch", module)
    with pytest.raises(ConfigError, match=r"without MPI.*install_horovod\.sh"):
        load_horovod()


def test_tensors_are_views() -> None:
    """Of numpy and torch alike, as numbers and as integers of the same size; what is read-only is copied."""
    array = np.arange(6.0, dtype=np.float32).reshape(2, 3)
    flat_tensor(array)[4] = 9.0
    flat_tensor(array, "int32")[0] = 0x3F800000
    assert array.tolist() == [[1.0, 1.0, 2.0], [3.0, 9.0, 5.0]]
    leaf = torch.zeros(2, 2, dtype=torch.bfloat16, requires_grad=True)
    flat_tensor(leaf, "int16")[3] = 0x3F80
    assert leaf.tolist() == [[0.0, 0.0], [0.0, 1.0]]
    array.flags.writeable = False
    flat_tensor(array)[:] = 0.0
    assert array[0, 0] == 1.0

"""Who launched us, cores and threads, stop signals, and guard around a run of one rank."""

import os
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from hpc_fl.comm import cores
from hpc_fl.comm.inprocess import InProcessTransport, run_ranks, solo
from hpc_fl.comm.runtime import Launch, StopSignals, available_cores, guard, launched, set_threads, start
from hpc_fl.errors import ConfigError, DataError, TransportError

MARKS = ("OMPI_COMM_WORLD", "PMI_", "MV2_COMM", "SLURM_", "OMP_NUM")


@pytest.fixture(autouse=True)
def _by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without any launcher."""
    for name in [name for name in os.environ if name.startswith(MARKS)]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("env", "launch"),
    [
        ({}, None),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4"}, Launch("mpirun", 1, 4)),
        ({"PMI_RANK": "0", "PMI_SIZE": "2"}, Launch("mpiexec", 0, 2)),
        ({"SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8"}, Launch("srun", 3, 8)),
        ({"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, None),
        ({"SLURM_STEP_ID": "4294967290", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, None),
    ],
    ids=["by hand", "open mpi", "hydra", "srun", "sbatch script", "salloc shell"],
)
def test_launchers_are_told_apart(
    env: dict[str, str], launch: Launch | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert launched() == launch


def test_by_hand_there_is_one_rank() -> None:
    transport = start()
    assert (transport.rank, transport.size) == (0, 1)
    assert transport.name == "in-process"


def test_ranks_that_mpi_does_not_see_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """srun without PMIx: each process would run alone, as rank 0 of 1."""
    for name, value in {"STEP_ID": "0", "PROCID": "1", "STEP_NUM_TASKS": "4"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    with pytest.raises(ConfigError, match="srun started 4 ranks"):
        start()


def test_cores_are_the_least_of_what_limits_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= available_cores() <= len(os.sched_getaffinity(0))
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(64)))
    monkeypatch.setattr(cores, "_quota_cores", lambda: None)
    assert available_cores() == 64
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "6")
    assert available_cores() == 6
    monkeypatch.setattr(cores, "_quota_cores", lambda: 2)
    assert available_cores() == 2


@pytest.mark.parametrize(("text", "wanted"), [("max 100000", None), ("250000 100000", 3), ("1000 100000", 1)])
def test_container_quota(tmp_path: Path, text: str, wanted: int | None) -> None:
    file = tmp_path / "cpu.max"
    assert cores._quota_cores(file) is None
    file.write_text(text)
    assert cores._quota_cores(file) == wanted


def test_threads_are_shared_by_ranks_on_the_same_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr("hpc_fl.comm.runtime.available_cores", lambda: 6)
    assert run_ranks(3, lambda t: set_threads(t, None)) == [2, 2, 2]
    assert run_ranks(8, lambda t: set_threads(t, None)) == [1] * 8
    assert set_threads(solo(), 5) == torch.get_num_threads() == 5
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert set_threads(solo(), None) == 4
    with pytest.raises(ConfigError, match="threads: 0"):
        set_threads(solo(), 0)
    torch.set_num_threads(before)


def test_threads_before_torch_are_left_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    monkeypatch.delitem(sys.modules, "torch")
    set_threads(solo(), 3)
    assert os.environ["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_stop_signal_is_noted_and_nothing_else(signum: signal.Signals) -> None:
    before = signal.getsignal(signum)
    with StopSignals() as stop:
        assert stop.requested is None
        signal.raise_signal(signum)
        assert stop.requested == signum.name
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested == signum.name
    assert signal.getsignal(signum) is before


def test_only_a_second_interrupt_raises() -> None:
    with StopSignals() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert stop.requested == "SIGTERM"


def test_stop_signals_leave_other_threads_alone() -> None:
    def enter(_t: InProcessTransport) -> str | None:
        with StopSignals() as stop:
            return stop.requested

    before = signal.getsignal(signal.SIGTERM)
    assert run_ranks(2, enter) == [None, None]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ValueError("odd"), 1, "ValueError: odd"),
        (DataError("no file"), 1, "DataError: no file\n"),
        (ConfigError("bad key"), 2, "ConfigError: bad key\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (SystemExit(3), 3, ""),
        (SystemExit(None), None, ""),
    ],
)
def test_guard_turns_errors_into_exit_codes(
    error: BaseException, code: int | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left, guard(solo()):
        raise error
    assert left.value.code == code
    text = capsys.readouterr().err
    assert said in text
    assert ("Traceback" in text) == isinstance(error, ValueError)


def test_guard_lets_success_pass_and_restores_the_hook() -> None:
    before = threading.excepthook
    with guard(solo()):
        assert threading.excepthook is not before
    assert threading.excepthook is before


def test_one_failing_rank_ends_all(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(t: InProcessTransport) -> None:
        with guard(t):
            if t.rank == 1:
                raise DataError("mine alone")
            try:
                t.allreduce(np.zeros(1))
            except TransportError as error:
                assert "rank 1 aborted" in str(error)  # noqa: PT017 - the ranks' own exit is checked below
                raise

    with pytest.raises(SystemExit) as left:
        run_ranks(3, fail)
    assert left.value.code == 1
    assert "rank 1: DataError: mine alone\n" in capsys.readouterr().err

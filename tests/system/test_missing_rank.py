"""A rank that never comes to a collective is named by those who wait for it, over MPI."""

import sys

import pytest
from system.test_mpirun import run_in_group

from hpc_fl.comm.launch import environment, mpirun_command

PROGRAM = """
import time, torch
from mpi4py import MPI
from hpc_fl.collectives import reduction
from hpc_fl.comm.mpi import MpiTransport
from hpc_fl.compression import OneBit
from hpc_fl.errors import TransportTimeout

transport = MpiTransport(MPI.COMM_WORLD, timeout=1.0)
mean = reduction(transport, OneBit())
if transport.rank == 1:
    time.sleep(60)
try:
    mean.allreduce(torch.ones(100))
except TransportTimeout as error:
    print(f"rank {transport.rank}: {error}", flush=True)
if transport.rank:
    time.sleep(60)
time.sleep(0.5)
transport.abort(7)
"""
TIME_LIMIT = 60.0


@pytest.mark.usefixtures("mpi")
def test_who_is_waited_for_is_named() -> None:
    command = mpirun_command(3, [sys.executable, "-c", PROGRAM])
    code, output = run_in_group(command, TIME_LIMIT, environment() | {"OMP_NUM_THREADS": "1"})
    assert code == 7, output
    assert "not complete within 1.0 s" in output
    assert "waited for rank 1" in output

"""What Open MPI is told before it starts."""

import os

import pytest

from hpc_fl.comm.defaults import defaults, prepare


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = {"OMPI_MCA_btl_tcp_eager_limit": "4096"}
    monkeypatch.setattr(os, "environ", dict(mine))
    prepare()
    assert os.environ == defaults() | mine

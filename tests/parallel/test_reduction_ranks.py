"""The laws of compressed reductions over MPI, with whatever number of ranks runs them."""

from collections.abc import Callable

import pytest
from laws import reduction_laws
from laws.reduction_laws import CASES, Case

from hpc_fl.comm.transport import Transport

FEW = {name: CASES[name] for name in ("bf16", "randomk", "onebit", "chain", "vote", "lowrank")}
"""One for each way to move payloads; all of them run over threads."""


@pytest.mark.parametrize("case", FEW.values(), ids=FEW)
@pytest.mark.parametrize("law", reduction_laws.LAWS)
def test_law(law: Callable[[Transport, Case], None], case: Case, transport: Transport) -> None:
    law(transport, case)

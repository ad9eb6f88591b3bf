"""The laws of per-step optimisers on the ranks at hand: all of one, and agreement of the others."""

import pytest
from laws import optimizer_laws
from laws.optimizer_laws import MAKERS

from hpc_fl.comm.transport import Transport


@pytest.mark.parametrize("law", optimizer_laws.LAWS)
def test_law(law: optimizer_laws.Law, transport: Transport) -> None:
    law(transport, MAKERS["onebit adam"])


@pytest.mark.parametrize("name", ["onebit lamb", "zero one adam"])
def test_ranks_agree(name: str, transport: Transport) -> None:
    optimizer_laws.law_ranks_agree(transport, MAKERS[name])

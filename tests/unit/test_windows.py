"""The laws of one-sided windows over threads."""

from collections.abc import Callable

import numpy as np
import pytest
from laws import window_laws

from hpc_fl.comm.inprocess import run_ranks
from hpc_fl.comm.staging import StagedTransport
from hpc_fl.comm.transport import Transport
from hpc_fl.errors import TransportTimeout

SIZES_OF_WORLDS = [1, 2, 3, 4, 5, 8]


@pytest.mark.parametrize("size", SIZES_OF_WORLDS)
@pytest.mark.parametrize("law", window_laws.LAWS)
def test_law(law: Callable[[Transport], None], size: int) -> None:
    run_ranks(size, law)


def test_staged_transports_have_windows() -> None:
    run_ranks(3, lambda t: window_laws.law_no_mass_is_lost(StagedTransport(t)))


def test_a_lock_that_is_never_given_back_is_a_timeout() -> None:
    def law(transport: Transport) -> None:
        window = transport.window(1)
        if transport.rank == 0:
            with window.locked():
                transport.barrier()
                transport.barrier()
        else:
            transport.barrier()
            window._limit = 0.05  # type: ignore[attr-defined]
            with pytest.raises(TransportTimeout, match=r"window of rank 0: no lock within 0\.05 s"):
                window.put(np.zeros(1, np.float32), 0)
            transport.barrier()
        window.close()

    run_ranks(2, law)

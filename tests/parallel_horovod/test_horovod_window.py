"""Windows and pairwise averaging under Horovod, which leaves both to MPI."""

from laws import pairwise_laws, window_laws

from hpc_fl.comm.transport import Transport


def test_windows(transport: Transport) -> None:
    window_laws.law_no_mass_is_lost(transport)


def test_pairwise_averaging(transport: Transport) -> None:
    pairwise_laws.law_training_goes_on_meanwhile(transport)

"""The laws of gossip in whole runs and in optimisers, on the ranks at hand. All use rank 0's folder."""

from collections.abc import Callable
from pathlib import Path

import pytest
from laws import gossip_optimizer_laws, gossip_training_laws

from hpc_fl.comm.control import broadcast_bytes
from hpc_fl.comm.transport import Transport


@pytest.mark.parametrize("law", gossip_training_laws.LAWS)
def test_law(
    law: Callable[[Transport, Path], None],
    transport: Transport,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = Path(
        broadcast_bytes(transport, str(tmp_path).encode() if transport.rank == 0 else None).decode()
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    law(transport, folder)
    transport.barrier()


@pytest.mark.parametrize("law", gossip_optimizer_laws.LAWS)
def test_law_of_optimisers(law: Callable[[Transport], None], transport: Transport) -> None:
    law(transport)

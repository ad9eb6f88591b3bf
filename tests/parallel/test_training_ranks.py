"""The laws of whole runs on the ranks at hand. Rank 0's folder is used by all."""

from collections.abc import Callable
from pathlib import Path

import pytest
from laws import gossip_training_laws, training_laws

from hpc_fl.comm.control import broadcast_bytes
from hpc_fl.comm.transport import Transport


@pytest.mark.parametrize("law", [*training_laws.LAWS, *gossip_training_laws.LAWS])
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

"""Checkpoints on the ranks at hand: alone, or under mpirun with any number of them.

`tmp_path` differs between ranks; the store uses rank 0's.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from laws.checkpoint_laws import (
    PARTIES,
    fail_when_writing,
    law_a_failed_write_fails_everywhere,
    law_damage_is_refused_by_all,
    law_parties_may_move,
    law_read_returns_what_was_written,
    write_rounds,
)

from hpc_fl.comm.transport import Transport
from hpc_fl.resilience import CheckpointStore, checkpoint, tensorfile


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def test_read_returns_what_was_written(transport: Transport, tmp_path: Path) -> None:
    law_read_returns_what_was_written(transport, tmp_path)


def test_parties_may_move_between_ranks(transport: Transport, tmp_path: Path) -> None:
    law_parties_may_move(transport, tmp_path)


@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink])
@pytest.mark.parametrize("pattern", ["server*", "manifest*", "parties*"])
def test_damage_is_refused_by_all(
    transport: Transport, tmp_path: Path, damage: Callable[[Path], None], pattern: str
) -> None:
    def spoil(folder: Path) -> str:
        last = max(folder.glob(pattern))
        damage(last)
        return last.name

    law_damage_is_refused_by_all(transport, tmp_path, spoil)


@pytest.mark.parametrize("where", ["first", "last", "manifest"])
def test_a_failed_write_fails_everywhere(
    transport: Transport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    last = min(transport.size, PARTIES) - 1
    name, culprit = {
        "first": ("server.safetensors", 0),
        "last": (f"parties-{last:04d}.safetensors", last),
        "manifest": ("manifest.json", 0),
    }[where]
    write_rounds(transport, CheckpointStore(tmp_path), [1])
    if transport.rank == culprit:
        for module in (tensorfile, checkpoint):
            monkeypatch.setattr(module, "write_durably", fail_when_writing(name, module.write_durably))
    law_a_failed_write_fails_everywhere(transport, tmp_path, f"rank {culprit}")

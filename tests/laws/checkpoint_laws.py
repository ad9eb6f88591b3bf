"""What holds for checkpoints on every transport and any number of ranks; each law is called by every rank.

`root` may differ between ranks: rank 0's is the one in use.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from torch import Tensor

from hpc_fl.comm.control import allgather_bytes
from hpc_fl.comm.inprocess import run_ranks, solo
from hpc_fl.comm.transport import Transport
from hpc_fl.errors import CheckpointError
from hpc_fl.resilience import CheckpointStore, Snapshot, durable

PARTIES: Final = 5
EVERYONE: Final = list(range(PARTIES))
META: Final[dict[str, Any]] = {
    "seed": 7,
    "best": 0.1,
    "stream": [1, 2**70],
    "none": None,
    "text": "é",
    "off": True,
}

Writer = Callable[[Path, Iterable[bytes | memoryview]], durable.FileRecord]


def server_tensors(seed: int) -> dict[str, Tensor]:
    """Return every dtype in use, odd bits, 0-d, empty and strided tensors, and views of one buffer."""
    generator = torch.Generator().manual_seed(seed)
    flat = torch.randn(24, generator=generator)
    odd_bits = torch.tensor([0x7FC00123, 0x00000001, 0x7F800000, -(2**31)], dtype=torch.int32)
    return {
        "layer.weight": flat[:20].view(4, 5),
        "layer.bias": flat[20:].requires_grad_(),
        "transposed": flat[:20].view(4, 5).T,
        "odd": odd_bits.view(torch.float32),
        "half": flat.to(torch.float16),
        "brain": flat[:7].to(torch.bfloat16),
        "double": flat[:3].to(torch.float64),
        "counts": torch.tensor([seed, -(2**63), 2**63 - 1]),
        "mask": torch.tensor([True, False, True]),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "scalar": torch.tensor(0.5, dtype=torch.bfloat16),
        "step": torch.tensor(seed),
        "flag": torch.tensor(True),
        "empty": torch.empty(0, 3),
        "empty/bool": torch.empty(0, dtype=torch.bool),
    }


def party_state(party: int, seed: int) -> dict[str, Tensor]:
    """Return a state whose names and sizes depend on the party; party 0 has none."""
    if party == 0:
        return {}
    residual = torch.randn(3 + party, generator=torch.Generator().manual_seed(1000 * seed + party))
    return {"residual/a.b": residual, "step": torch.tensor(party), f"only{party}": residual.to(torch.float16)}


def hosted(rank: int, size: int) -> list[int]:
    """Return the parties of a rank; with more ranks than parties some have none."""
    return list(range(rank, PARTIES, size))


def sample(round: int, rank: int, size: int) -> Snapshot:
    """Return the snapshot of round `round` as rank `rank` of `size` holds it."""
    parties = {party: party_state(party, round) for party in hosted(rank, size)}
    return Snapshot(round, server_tensors(round), parties, META | {"round": round})


def assert_same_bits(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Fail unless both hold the same names, dtypes, shapes and bits."""
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert torch.equal(_bits(found[name]), _bits(tensor)), name


def assert_is_sample(found: Snapshot | None, round: int, parties: Sequence[int]) -> None:
    """Fail unless `found` is `sample(round)` with the state of exactly `parties`."""
    assert found is not None
    assert found.round == round
    assert found.meta == META | {"round": round}
    assert_same_bits(found.tensors, server_tensors(round))
    assert sorted(found.parties) == sorted(parties)
    for party in parties:
        assert_same_bits(found.parties[party], party_state(party, round))


def write_rounds(transport: Transport, store: CheckpointStore, rounds: Iterable[int]) -> Path:
    """Write the samples of `rounds`; return the last folder."""
    folders = [store.write(sample(round, transport.rank, transport.size), transport) for round in rounds]
    return folders[-1]


def write_on(size: int, root: Path, *rounds: int, keep: int = 3) -> None:
    """Write the samples of `rounds` on `size` ranks."""
    run_ranks(size, lambda transport: write_rounds(transport, CheckpointStore(root, keep), rounds))


def read_all(root: Path, round: int | None = None) -> Snapshot | None:
    """Read every party in one process."""
    return CheckpointStore(root).read(solo(), EVERYONE, round=round)


def nothing_temporary(root: Path) -> bool:
    """Whether `root` holds checkpoints and the best pointer only."""
    return all(path.name == "best.json" or path.suffix == "" for path in root.iterdir())


def fail_when_writing(name: str, write: Writer) -> Writer:
    """Return the file writer `write`, out of space after the first bytes of any file called `name`."""

    @functools.wraps(write)
    def failing(path: Path, chunks: Iterable[bytes | memoryview]) -> durable.FileRecord:
        if path.name == name:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device", str(path))
        return write(path, chunks)

    return failing


def law_read_returns_what_was_written(transport: Transport, root: Path) -> None:
    """Every rank gets its parties and the shared state, bit for bit, and all get the newest round."""
    store = CheckpointStore(root)
    assert store.read(transport, hosted(transport.rank, transport.size)) is None
    folder = write_rounds(transport, store, [1, 2])
    assert {data.decode() for data in allgather_bytes(transport, str(folder).encode())} == {str(folder)}
    assert CheckpointStore(folder.parent).rounds() == [1, 2]
    assert nothing_temporary(folder.parent)
    mine = hosted(transport.rank, transport.size)
    assert_is_sample(CheckpointStore(root).read(transport, mine), 2, mine)
    assert_is_sample(store.read(transport, mine, round=1), 1, mine)


def law_parties_may_move(transport: Transport, root: Path) -> None:
    """A rank may ask for the parties of another rank, of all ranks, or of none."""
    store = CheckpointStore(root)
    write_rounds(transport, store, [3])
    wishes = [hosted((transport.rank + 1) % transport.size, transport.size), list(range(PARTIES)), []]
    for wish in wishes:
        assert_is_sample(store.read(transport, wish), 3, wish)


def law_damage_is_refused_by_all(transport: Transport, root: Path, damage: Callable[[Path], str]) -> None:
    """When `damage` spoils the newest folder (it returns a word of the warning) all use the one before."""
    warned: list[str] = []
    store = CheckpointStore(root, warn=warned.append)
    folder = write_rounds(transport, store, [1, 2])
    word = damage(folder) if transport.rank == 0 else ""
    transport.barrier()
    mine = hosted(transport.rank, transport.size)
    assert_is_sample(store.read(transport, mine), 1, mine)
    assert len(warned) == (transport.rank == 0)
    assert all("round-00000002 is refused" in line and word in line for line in warned)
    with pytest.raises(CheckpointError, match="round-00000002 is refused"):
        store.read(transport, mine, round=2)


def law_a_failed_write_fails_everywhere(transport: Transport, root: Path, culprit: str) -> None:
    """With a writer that fails on one rank: an error naming `culprit` on all ranks, the old one as it was."""
    store = CheckpointStore(root)
    with pytest.raises(CheckpointError, match=rf"round 2 was not written: {culprit}: .*No space left"):
        write_rounds(transport, store, [2])
    transport.barrier()
    mine = hosted(transport.rank, transport.size)
    assert_is_sample(store.read(transport, mine), 1, mine)


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)

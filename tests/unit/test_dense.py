"""The laws of dense allreduces over threads; how choices are made; shared memory that cannot be had."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from laws import auto_laws, dense_laws

from hpc_fl.collectives import Halves, Ring, shared_memory
from hpc_fl.collectives.choice import SIZES, Choices
from hpc_fl.collectives.node import MessageNode, SharedNode, node_of
from hpc_fl.collectives.ring import Course
from hpc_fl.comm.inprocess import InProcessTransport, run_ranks, solo
from hpc_fl.comm.transport import Transport
from hpc_fl.errors import TransportError, TransportTimeout
from hpc_fl.telemetry.ledger import Ledger

SIZES_OF_WORLDS = [1, 2, 3, 5, 8]  # 4: under mpirun, tests/system/test_mpirun.py


@pytest.mark.parametrize("size", SIZES_OF_WORLDS)
@pytest.mark.parametrize("case", dense_laws.CASES.values(), ids=dense_laws.CASES)
@pytest.mark.parametrize("law", dense_laws.LAWS)
def test_law(law: Callable[[Transport, dense_laws.Case], None], case: dense_laws.Case, size: int) -> None:
    run_ranks(size, lambda transport: law(transport, case))


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("law", auto_laws.LAWS)
def test_law_of_the_choice(
    law: Callable[[Transport], None], size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    run_ranks(size, law)


@pytest.mark.parametrize("ranks", [2, 3, 5])
@pytest.mark.parametrize("n", [0, 1, 4, 5, 100])
def test_every_rank_sends_what_its_neighbour_expects(ranks: int, n: int) -> None:
    """And what arrives leaves a step later, until it has gone round twice but for two chunks."""
    courses = [Course(n, ranks, rank, 3) for rank in range(ranks)]
    for rank, course in enumerate(courses):
        assert course.items == 2 * (ranks - 1) * 3
        for item in range(course.items):
            assert courses[rank - 1].sent(item) == course.received(item)
            assert course.received(item) == course.sent(item + 3)
        whole = sorted(i for item in range(3 * ranks) for i in range(n)[course.sent(item)])
        assert whole == list(range(n))


def test_the_rings_scratch_memory_does_not_grow() -> None:
    def largest(transport: Transport) -> int:
        ring = Ring(transport, Ledger(), segment=100, ahead=4)
        ring.allreduce(torch.ones(100_000))
        return sum(slot.nbytes for slot in ring._scratch)

    assert run_ranks(2, largest) == [4 * 4 * 100] * 2


@pytest.mark.parametrize(("kind", "largest"), [("fp16", 65504.0), ("bf16", 3.3895313892515355e38)])
def test_what_16_bits_cannot_hold_becomes_the_largest(kind: str, largest: float) -> None:
    def total(transport: Transport) -> list[float]:
        buffer = torch.tensor([3e38, -3e38, 0.1])
        Halves(transport, Ledger(), kind).allreduce(buffer)  # type: ignore[arg-type]
        half = buffer.to({"fp16": torch.float16, "bf16": torch.bfloat16}[kind])
        assert torch.equal(half.float(), buffer)
        return buffer.tolist()

    for first, second, _ in run_ranks(3, total):
        assert (first, second) == (largest, -largest)


def test_one_rank_needs_no_rounding() -> None:
    buffer = torch.tensor([0.1, 1e38])
    Halves(solo(), Ledger(), "fp16").allreduce(buffer)
    assert buffer.tolist() == torch.tensor([0.1, 1e38]).tolist()


def test_a_rank_that_does_not_come_is_an_error_in_time() -> None:
    def lonely(transport: InProcessTransport) -> None:
        if transport.rank == 0:
            Ring(transport, Ledger()).allreduce(torch.ones(10))

    with pytest.raises(TransportTimeout, match="receive from rank 1"):
        run_ranks(2, lonely, timeout=0.2)


def test_a_rank_that_fails_is_an_error_for_the_others() -> None:
    seen: list[str] = []

    def fails(transport: InProcessTransport) -> None:
        if transport.rank == 1:
            raise ValueError("broken")
        try:
            Ring(transport, Ledger()).start(torch.ones(10)).wait()
        except TransportError as error:
            seen.append(str(error))
            raise

    with pytest.raises(ValueError, match="broken"):
        run_ranks(2, fails)
    assert seen == ["rank 1 failed: ValueError: broken"]


def test_shared_memory_leaves_no_file(tmp_path: Path) -> None:
    def opened(transport: Transport) -> list[float]:
        memory = shared_memory.open_shared(transport, 4 * transport.size, tmp_path)
        assert memory is not None
        memory[transport.rank] = transport.rank
        transport.barrier()
        return list(memory.tolist())

    assert run_ranks(3, opened) == [[0.0, 1.0, 2.0]] * 3
    assert not list(tmp_path.iterdir())


def test_without_shared_memory_messages_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where it cannot be made, is full, or cannot be opened by a rank."""
    assert {type(node) for node in run_ranks(2, node_of)} == {SharedNode}
    assert run_ranks(2, lambda t: shared_memory.open_shared(t, 8, tmp_path / "none")) == [None, None]
    with monkeypatch.context() as patch:
        patch.setattr(shared_memory, "_open", lambda *_: None)
        assert {type(node) for node in run_ranks(2, node_of)} == {MessageNode}

    def full(*_: int) -> None:
        raise OSError("no space")

    monkeypatch.setattr("os.posix_fallocate", full)
    assert run_ranks(2, lambda t: shared_memory.open_shared(t, 8, tmp_path)) == [None, None]
    assert not list(tmp_path.iterdir())


def chosen(seconds: Mapping[str, float], index: int, measured: list[int]) -> list[str]:
    """The names for all sizes up to ``index``, with these seconds an element."""

    def measure(i: int) -> Mapping[str, float]:
        measured.append(i)
        return {name: each * SIZES[i] for name, each in seconds.items()}

    choices = Choices(solo(), ["a"], measure)
    return [choices.at(i).name for i in range(index + 1)]


def test_the_fastest_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, (seconds, name) in enumerate(
        [
            ({"dense": 1e-9, "ring": 0.5e-9, "doubling": 2e-9}, "ring"),
            ({"dense": 1e-9, "ring": 0.95e-9}, "dense"),  # not worth it
        ]
    ):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / str(number)))
        measured: list[int] = []
        assert chosen(seconds, 2, measured) == [name] * 3
        assert chosen(seconds, 3, measured) == [name] * 4
        assert measured == [0, 1, 2, 3]  # what the file has is not measured again


def test_what_takes_too_long_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    measured: list[int] = []
    # 100 MB/s: 4 MB would take 0.04 s, and 32 MB 0.3 s.
    assert chosen({"dense": 4e-8, "ring": 2e-8}, 4, measured) == ["ring"] * 5
    assert measured == [0, 1, 2, 3]


def test_another_world_is_measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    measured: list[int] = []
    chosen({"dense": 1e-9}, 0, measured)
    monkeypatch.setenv("OMPI_MCA_btl", "tcp,self")
    chosen({"dense": 1e-9}, 0, measured)
    assert measured == [0, 0]

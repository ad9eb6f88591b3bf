"""Checkpoints in one process: alone, and on ranks that are threads."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from laws.checkpoint_laws import (
    EVERYONE,
    assert_is_sample,
    assert_same_bits,
    hosted,
    law_damage_is_refused_by_all,
    law_parties_may_move,
    law_read_returns_what_was_written,
    nothing_temporary,
    read_all,
    sample,
    server_tensors,
    write_on,
)
from safetensors.torch import load_file

from hpc_fl.comm.inprocess import run_ranks, solo
from hpc_fl.comm.transport import Transport
from hpc_fl.errors import CheckpointError, ConfigError
from hpc_fl.resilience import CheckpointStore, tensorfile
from hpc_fl.resilience.durable import DamagedError, FileRecord
from hpc_fl.resilience.manifest import Manifest

SIZES = pytest.mark.parametrize("size", [1, 2, 3, 4])


@SIZES
def test_read_returns_what_was_written(size: int, tmp_path: Path) -> None:
    def per_rank(transport: Transport) -> None:
        law_read_returns_what_was_written(transport, tmp_path / f"root of rank {transport.rank}")

    run_ranks(size, per_rank)
    assert [path.name for path in tmp_path.iterdir()] == ["root of rank 0"]


@SIZES
def test_parties_may_move_between_ranks(size: int, tmp_path: Path) -> None:
    run_ranks(size, lambda transport: law_parties_may_move(transport, tmp_path))


@pytest.mark.parametrize("readers", [1, 2, 4])
def test_written_on_three_ranks_and_read_on_others(readers: int, tmp_path: Path) -> None:
    write_on(3, tmp_path, 4)

    def read(transport: Transport) -> None:
        mine = hosted(transport.rank, transport.size)
        assert_is_sample(CheckpointStore(tmp_path).read(transport, mine), 4, mine)

    run_ranks(readers, read)


def test_the_bytes_do_not_depend_on_the_rank_count_beyond_the_party_files(tmp_path: Path) -> None:
    for size in (1, 4):
        write_on(size, tmp_path / str(size), 1)
    one, four = (tmp_path / str(size) / "round-00000001" / "server.safetensors" for size in (1, 4))
    assert one.read_bytes() == four.read_bytes()


def test_the_files_are_ordinary_safetensors(tmp_path: Path) -> None:
    write_on(1, tmp_path, 1)
    assert_same_bits(load_file(tmp_path / "round-00000001" / "server.safetensors"), server_tensors(1))


def test_every_tensor_is_aligned(tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    tensorfile.write_tensors(
        path, {"a": torch.ones(3, dtype=torch.bool), "b": torch.ones(2), "c": torch.tensor(1)}
    )
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    entries = json.loads(data[8:start])
    sizes = {"BOOL": 1, "F32": 4, "I64": 8}
    assert all((start + entry["data_offsets"][0]) % sizes[entry["dtype"]] == 0 for entry in entries.values())


def test_a_snapshot_outlives_its_files(tmp_path: Path) -> None:
    write_on(1, tmp_path, 1)
    found = read_all(tmp_path)
    for path in (tmp_path / "round-00000001").iterdir():
        path.write_bytes(b"")
    assert_is_sample(found, 1, EVERYONE)


def truncate(folder: Path, name: str) -> str:
    path = folder / name
    os.truncate(path, path.stat().st_size - 1)
    return name


def flip(folder: Path, name: str) -> str:
    path = folder / name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    return name


def remove(folder: Path, name: str) -> str:
    (folder / name).unlink()
    return name


@SIZES
@pytest.mark.parametrize("damage", [truncate, flip, remove])
@pytest.mark.parametrize("name", ["server.safetensors", "manifest.json", "last parties"])
def test_damage_is_refused_by_name_and_the_one_before_is_used(
    size: int, damage: Callable[[Path, str], str], name: str, tmp_path: Path
) -> None:
    name = f"parties-{size - 1:04d}.safetensors" if name == "last parties" else name
    run_ranks(size, lambda rank: law_damage_is_refused_by_all(rank, tmp_path, lambda at: damage(at, name)))


@SIZES
def test_no_intact_checkpoint_is_an_error_on_every_rank(size: int, tmp_path: Path) -> None:
    write_on(size, tmp_path, 1, 2)
    flip(tmp_path / "round-00000001", "server.safetensors")
    remove(tmp_path / "round-00000002", "manifest.json")
    warned: list[str] = []

    def read(transport: Transport) -> None:
        with pytest.raises(
            CheckpointError, match=r"no intact checkpoint in .*00000002.*missing.*00000001.*altered"
        ):
            CheckpointStore(tmp_path, warn=warned.append).read(transport, [0])

    run_ranks(size, read)
    assert [line.split()[0] for line in warned] == ["round-00000002", "round-00000001"]


def test_a_refusal_is_a_warning_by_default(tmp_path: Path) -> None:
    write_on(1, tmp_path, 1, 2)
    truncate(tmp_path / "round-00000002", "manifest.json")
    with pytest.warns(RuntimeWarning, match="round-00000002 is refused"):
        assert_is_sample(read_all(tmp_path), 1, EVERYONE)


def test_every_altered_byte_of_a_manifest_is_found() -> None:
    data = Manifest(3, {"a": [1.5, None]}, {"server.safetensors": FileRecord("ab", 2)}, {7: "x"}).encode()
    assert Manifest.decode(data).parties == {7: "x"}
    assert json.loads(data)["round"] == 3
    for position in range(len(data)):
        altered = bytearray(data)
        altered[position] ^= 4
        with pytest.raises(DamagedError, match=r"manifest\.json"):
            Manifest.decode(bytes(altered))
        with pytest.raises(DamagedError, match=r"manifest\.json"):
            Manifest.decode(data[:position])


@pytest.mark.filterwarnings("ignore:round-")
def test_a_manifest_of_another_round_or_version_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_on(1, tmp_path, 1)
    shutil.copytree(tmp_path / "round-00000001", tmp_path / "round-00000009")
    with pytest.raises(CheckpointError, match="that of round 1"):
        read_all(tmp_path, round=9)
    monkeypatch.setattr("hpc_fl.resilience.manifest.VERSION", 2)
    with pytest.raises(CheckpointError, match="version 1, this hpc_fl reads 'hpc_fl checkpoint' version 2"):
        read_all(tmp_path, round=1)


def test_a_round_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    write_on(1, tmp_path, 1, 3)
    with pytest.raises(CheckpointError, match=r"no checkpoint of round 2 .* \[1, 3\]"):
        read_all(tmp_path, round=2)


def test_the_last_ones_and_the_best_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    assert (store.rounds(), store.best()) == ([], None)
    for round in range(1, 8):
        store.write(sample(round, 0, 1), solo(), best=round in (2, 3))
    assert (store.rounds(), store.best()) == ([3, 6, 7], 3)
    assert nothing_temporary(tmp_path)
    assert_is_sample(read_all(tmp_path, round=3), 3, EVERYONE)
    store.write(sample(8, 0, 1), solo(), best=True)
    assert (store.rounds(), store.best()) == ([7, 8], 8)


def test_at_least_one_is_kept(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="keep = 0"):
        CheckpointStore(tmp_path, keep=0)


def test_a_broken_best_pointer_points_nowhere(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.write(sample(1, 0, 1), solo(), best=True)
    (tmp_path / "best.json").write_text('{"round": ')
    assert store.best() is None


def test_a_round_may_be_written_again(tmp_path: Path) -> None:
    write_on(3, tmp_path, 1)
    flip(tmp_path / "round-00000001", "server.safetensors")
    write_on(2, tmp_path, 1, keep=1)
    assert nothing_temporary(tmp_path)
    assert_is_sample(read_all(tmp_path), 1, EVERYONE)


def test_a_resumed_run_supersedes_the_later_checkpoints(tmp_path: Path) -> None:
    warned: list[str] = []
    store = CheckpointStore(tmp_path, keep=5, warn=warned.append)
    for round in (1, 2, 3, 4):
        store.write(sample(round, 0, 1), solo(), best=round == 4)
    store.write(sample(2, 0, 1), solo())
    assert (store.rounds(), store.best()) == ([1, 2], None)
    assert not (tmp_path / "best.json").exists()
    assert len(warned) == 1
    assert "[3, 4] were removed" in warned[0]


def test_an_unknown_party_is_an_error_on_every_rank(tmp_path: Path) -> None:
    write_on(2, tmp_path, 1)

    def read(transport: Transport) -> None:
        with pytest.raises(
            CheckpointError, match=r"rank 1: round-00000001 holds no state of parties \[5, 6\]"
        ):
            CheckpointStore(tmp_path).read(transport, [4] if transport.rank == 0 else [3, 5, 6])

    run_ranks(2, read)

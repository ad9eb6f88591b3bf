"""Checkpoints whose writing fails, or is killed, at any step."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from laws.checkpoint_laws import (
    EVERYONE,
    assert_is_sample,
    fail_when_writing,
    law_a_failed_write_fails_everywhere,
    read_all,
    sample,
    write_on,
    write_rounds,
)

from hpc_fl.comm.inprocess import run_ranks, solo
from hpc_fl.comm.transport import Transport
from hpc_fl.errors import CheckpointError
from hpc_fl.resilience import CheckpointStore, Snapshot, checkpoint, tensorfile

SIZES = pytest.mark.parametrize("size", [1, 2, 3, 4])


@SIZES
@pytest.mark.parametrize("name", ["server.safetensors", "manifest.json", "last parties"])
def test_a_failed_write_fails_everywhere_and_harms_nothing(
    size: int, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    culprit = size - 1 if name == "last parties" else 0
    name = f"parties-{culprit:04d}.safetensors" if name == "last parties" else name
    write_on(size, tmp_path, 1)
    for module in (tensorfile, checkpoint):
        monkeypatch.setattr(module, "write_durably", fail_when_writing(name, module.write_durably))
    law = law_a_failed_write_fails_everywhere
    run_ranks(size, lambda transport: law(transport, tmp_path, f"rank {culprit}"))
    assert [path.name for path in tmp_path.iterdir()] == ["round-00000001"]


@SIZES
def test_a_root_that_cannot_be_made_fails_everywhere(size: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    def write(transport: Transport) -> None:
        with pytest.raises(CheckpointError, match=r"was not written: rank 0: .*File exists"):
            write_rounds(transport, CheckpointStore(tmp_path / "file"), [1])

    run_ranks(size, write)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rank: {"round": rank}, r"disagree on the round \(\[0, 1\], by rank\)"),
        (lambda _: {"parties": {3: {}}}, r"party 3 is in parties-0000\.safetensors and in parties-0001"),
        (
            lambda _: {"tensors": {"z": torch.tensor(1j)}},
            "rank 0: tensor 'z' of torch.complex64 cannot be",
        ),
        (
            lambda rank: {"parties": {rank: {"z": torch.tensor(1j)}}},
            "rank 0: tensor '0/z'.*; rank 1: tensor '1/z'",
        ),
        (lambda _: {"tensors": {"__metadata__": torch.tensor(1)}}, "use another name than '__metadata__'"),
        (lambda _: {"meta": {"a": {"b": [{3: 1}]}}}, r"meta\['a'\]\['b'\]\[0\] has the key 3"),
        (lambda _: {"meta": {"a": Path()}}, "meta cannot be written as JSON"),
    ],
)
def test_a_snapshot_that_cannot_be_kept_is_an_error_on_every_rank(
    change: Callable[[int], dict[str, Any]], message: str, tmp_path: Path
) -> None:
    def write(transport: Transport) -> None:
        snapshot = Snapshot(**{"round": 1, **change(transport.rank)})
        with pytest.raises(CheckpointError, match=message):
            CheckpointStore(tmp_path).write(snapshot, transport)

    run_ranks(2, write)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_ignored_and_removed(tmp_path: Path) -> None:
    write_on(2, tmp_path, 1)
    shutil.copytree(tmp_path / "round-00000001", tmp_path / "round-00000002.tmp-0123")
    assert CheckpointStore(tmp_path).rounds() == [1]
    assert_is_sample(read_all(tmp_path), 1, EVERYONE)
    write_on(2, tmp_path, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["round-00000001", "round-00000003"]


def test_everything_is_on_the_disk_before_the_rename_and_the_manifest_is_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, renamers = os.fsync, {"rename": os.rename, "replace": os.replace}

    def watched_fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        steps.append(f"fsync {path.name.partition('.tmp-')[0]}")
        fsync(descriptor)

    def watch(how: str) -> None:
        def watched(source: Path, target: Path) -> None:
            steps.append(f"{how} to {Path(target).name}")
            renamers[how](source, target)

        monkeypatch.setattr(os, how, watched)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    for how in renamers:
        watch(how)
    root = tmp_path / "checkpoints"
    run_ranks(3, lambda rank: CheckpointStore(root).write(sample(1, rank.rank, 3), rank, best=True))
    files = ["server.safetensors", *(f"parties-{rank:04d}.safetensors" for rank in range(3))]
    assert sorted(steps[:4]) == sorted(f"fsync {name}" for name in files)
    assert steps[4:] == [
        "fsync manifest.json",
        "fsync round-00000001",
        "rename to round-00000001",
        "fsync checkpoints",
        "fsync best.json.tmp",
        "replace to best.json",
        "fsync checkpoints",
    ]


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the package may catch it."""


class Fuse:
    """Lets `left` changes of the disk happen and kills at the next one."""

    def __init__(self, left: int) -> None:
        self.left = left

    def wrap(self, call: Callable[..., object]) -> Callable[..., object]:
        def step(*args: object, **options: object) -> object:
            self.left -= 1
            if self.left < 0:
                raise Killed
            return call(*args, **options)

        return step


def write_and_be_killed(root: Path, round: int, keep: int, steps: int) -> bool:
    """Write `round` up to `steps` changes of the disk; return whether it was killed."""
    fuse = Fuse(steps)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir"):
            patch.setattr(os, name, fuse.wrap(getattr(os, name)))
        try:
            CheckpointStore(root, keep, warn=lambda _: None).write(sample(round, 0, 1), solo(), best=True)
        except Killed:
            return True
    return False


@pytest.mark.parametrize(
    ("before", "after", "keep"),
    [
        pytest.param([1], 2, 1, id="a new round"),
        pytest.param([1, 2], 2, 1, id="the same round again"),
        pytest.param([1, 5, 6], 2, 2, id="superseding"),
    ],
)
def test_a_kill_at_any_step_leaves_an_intact_checkpoint(
    before: list[int], after: int, keep: int, tmp_path: Path
) -> None:
    killed, steps = True, 0
    while killed:
        root = tmp_path / str(steps)
        write_on(1, root, *before)
        killed = write_and_be_killed(root, after, keep, steps)
        found = read_all(root)
        assert found is not None
        assert found.round in ({before[-1], after} if killed else {after})
        for round in CheckpointStore(root).rounds():
            assert_is_sample(read_all(root, round), round, EVERYONE)
        steps += 1
    assert steps > 8

"""Checkpoints written by any number of ranks and read by any other number.

    root/round-00000012/server.safetensors         what all ranks share; written by rank 0
                        parties-0000.safetensors   the parties of rank 0; tensors are named "PARTY/NAME"
                        parties-0001.safetensors   the parties of rank 1; none for a rank without parties
                        manifest.json              round, meta, SHA-256 of the files, which holds which party

All ranks must see the folder (a shared file system), and one run at a time may write there. Everything is
written to a temporary folder, the manifest last, and takes its name by one rename: a kill at any moment
leaves the earlier checkpoints and never half a new one. State is kept by party, never by rank.
"""

import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hpc_fl.comm.control import allgather_bytes
from hpc_fl.errors import CheckpointError, ConfigError
from hpc_fl.resilience import layout
from hpc_fl.resilience.agreement import on_every, on_root
from hpc_fl.resilience.durable import DamagedError, FileRecord, sync_folder, write_durably
from hpc_fl.resilience.manifest import MANIFEST, Manifest
from hpc_fl.resilience.snapshot import Snapshot
from hpc_fl.resilience.tensorfile import read_tensors, write_tensors

if TYPE_CHECKING:
    from hpc_fl.comm.transport import Transport

SERVER = "server.safetensors"


def _warn(text: str) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=3)


class CheckpointStore:
    """The checkpoints of one run under `root`: the last `keep` and the best one.

    `warn` is called on rank 0 with one line about each checkpoint refused, or removed as superseded. Making a
    store touches no file. Raises ConfigError when `keep` is less than 1.
    """

    def __init__(self, root: Path, keep: int = 3, *, warn: Callable[[str], None] = _warn) -> None:
        if keep < 1:
            raise ConfigError(f"keep = {keep}: expected at least 1 checkpoint to keep")
        self.root = root.absolute()
        self.keep = keep
        self._warn = warn

    def rounds(self) -> list[int]:
        """Return the rounds that have a checkpoint in this rank's root, ascending, intact or not."""
        return layout.rounds(self.root)

    def best(self) -> int | None:
        """Return the round last written with `best=True`, if this rank's root still holds it."""
        round = layout.best(self.root)
        return round if round in self.rounds() else None

    def write(self, snapshot: Snapshot, transport: "Transport", *, best: bool = False) -> Path:
        """Write `snapshot` and return its folder, on every rank. Every rank must call it.

        Rank 0's root, `tensors` and `meta` are used, and every rank's `parties`. A checkpoint of the same
        round is replaced; those of later rounds, left by a run that was since resumed before them, are
        removed. When any rank fails, CheckpointError is raised on every rank and earlier checkpoints are as
        they were.
        """
        try:
            temporary = Path(on_root(transport, lambda: str(layout.begin(self.root, snapshot.round))))
            folder = self._fill_and_install(temporary, snapshot, transport)
        except CheckpointError as error:
            raise CheckpointError(
                f"the checkpoint of round {snapshot.round} was not written: {error}. "
                f"Earlier ones are intact; check space, permissions, and that every rank sees the folder"
            ) from error
        on_root(transport, lambda: self._settle(snapshot.round, best))
        return folder

    def read(
        self, transport: "Transport", party_ids: Sequence[int], *, round: int | None = None
    ) -> Snapshot | None:
        """Return the newest intact checkpoint, or None when there is none at all. Every rank must call it.

        All ranks get the same round of rank 0's root, and each the state of its own `party_ids`, on the CPU,
        whatever number of ranks wrote it. A damaged checkpoint is refused with a warning and the one before
        is used; with `round`, only that one will do. CheckpointError is raised on every rank when there are
        checkpoints but none is intact, when `round` is not there, or when it lacks a party.
        """
        folders = [Path(name) for name in on_root(transport, lambda: self._candidates(round))]
        if not folders:
            return None
        found = self._newest_intact(folders, party_ids, transport)
        on_every(transport, lambda: _require_parties(found, party_ids))
        return found

    def _fill_and_install(self, temporary: Path, snapshot: Snapshot, transport: "Transport") -> Path:
        try:
            parts = on_every(transport, lambda: _write_part(temporary, snapshot, transport.rank))
            return Path(on_root(transport, lambda: str(self._commit(temporary, snapshot, parts))))
        except CheckpointError:
            if transport.rank == 0:
                shutil.rmtree(temporary, ignore_errors=True)
            raise

    def _commit(self, temporary: Path, snapshot: Snapshot, parts: list[dict[str, Any]]) -> Path:
        write_durably(temporary / MANIFEST, [_assemble(snapshot, parts).encode()])
        sync_folder(temporary)
        final = self.root / layout.folder_name(snapshot.round)
        layout.install(temporary, final)
        return final

    def _settle(self, newest: int, best: bool) -> None:
        name = layout.folder_name(newest)
        try:
            if best:
                layout.set_best(self.root, newest)
            superseded = layout.prune(self.root, newest, self.keep)
        except OSError as error:
            raise CheckpointError(
                f"{name} was written, but {layout.BEST} or the removal of older ones failed: {error}; "
                f"check free space and permissions of {self.root}"
            ) from error
        if superseded:
            self._warn(f"checkpoints of rounds {superseded} were removed: {name} supersedes them")

    def _candidates(self, round: int | None) -> list[str]:
        layout.recover(self.root)
        present = self.rounds()
        if round is not None and round not in present:
            raise CheckpointError(
                f"no checkpoint of round {round} in {self.root}; it has {present or 'none'}"
            )
        chosen = present[::-1] if round is None else [round]
        return [str(self.root / layout.folder_name(candidate)) for candidate in chosen]

    def _newest_intact(
        self, folders: Sequence[Path], party_ids: Sequence[int], transport: "Transport"
    ) -> Snapshot:
        refused: list[str] = []
        for folder in folders:
            snapshot, problem = _load_agreed(folder, party_ids, transport)
            if snapshot is not None:
                return snapshot
            refused.append(f"{folder.name} is refused: {problem}")
            if transport.rank == 0:
                self._warn(refused[-1])
        raise CheckpointError(
            f"no intact checkpoint in {folders[0].parent}: {'; '.join(refused)}. "
            f"Restore one of these folders from a copy, or start a new run in another folder"
        )


def _write_part(folder: Path, snapshot: Snapshot, rank: int) -> dict[str, Any]:
    """Write this rank's files; return, as JSON, what rank 0 needs for the manifest."""
    files: dict[str, FileRecord] = {}
    if rank == 0:
        files[SERVER] = write_tensors(folder / SERVER, snapshot.tensors)
    name = f"parties-{rank:04d}.safetensors"
    if snapshot.parties:
        states = snapshot.parties.items()
        named = {f"{party}/{key}": value for party, state in states for key, value in state.items()}
        files[name] = write_tensors(folder / name, named)
    return {
        "round": snapshot.round,
        "files": {file: [record.sha256, record.size] for file, record in files.items()},
        "parties": {str(party): name for party in snapshot.parties},
    }


def _assemble(snapshot: Snapshot, parts: list[dict[str, Any]]) -> Manifest:
    rounds = [part["round"] for part in parts]
    if len(set(rounds)) > 1:
        raise CheckpointError(f"the ranks disagree on the round ({rounds}, by rank): call write() in step")
    files: dict[str, FileRecord] = {}
    parties: dict[int, str] = {}
    for part in parts:
        files.update({file: FileRecord(*record) for file, record in part["files"].items()})
        for party, file in part["parties"].items():
            other = parties.setdefault(int(party), file)
            if other != file:
                raise CheckpointError(f"party {party} is in {other} and in {file}: host it on one rank")
    return Manifest(snapshot.round, snapshot.meta, files, parties)


def _load_agreed(
    folder: Path, party_ids: Sequence[int], transport: "Transport"
) -> tuple[Snapshot | None, str]:
    """Load a checkpoint if every rank finds what it reads intact; else return, everywhere, what is wrong."""
    snapshot: Snapshot | None = None
    problem = ""
    try:
        snapshot = _load(folder, party_ids)
    except (DamagedError, OSError) as error:
        problem = str(error)
    problems = [data.decode() for data in allgather_bytes(transport, problem.encode())]
    if any(problems):
        return None, "; ".join(dict.fromkeys(filter(None, problems)))
    return snapshot, ""


def _load(folder: Path, party_ids: Sequence[int]) -> Snapshot:
    try:
        manifest = Manifest.decode((folder / MANIFEST).read_bytes())
    except FileNotFoundError as error:
        raise DamagedError(f"{MANIFEST} is missing") from error
    if layout.folder_name(manifest.round) != folder.name:
        raise DamagedError(f"{MANIFEST} is that of round {manifest.round}")
    tensors = read_tensors(folder / SERVER, manifest.files[SERVER], lambda _: True)
    parties: dict[int, dict[str, Tensor]] = {party: {} for party in party_ids if party in manifest.parties}
    for name in dict.fromkeys(manifest.parties[party] for party in parties):
        found = read_tensors(folder / name, manifest.files[name], lambda key: _party(key) in parties)
        for key, tensor in found.items():
            parties[_party(key)][key.partition("/")[2]] = tensor
    return Snapshot(manifest.round, tensors, parties, manifest.meta)


def _party(key: str) -> int:
    return int(key.partition("/")[0])


def _require_parties(snapshot: Snapshot, party_ids: Sequence[int]) -> None:
    missing = [party for party in party_ids if party not in snapshot.parties]
    if missing:
        raise CheckpointError(
            f"{layout.folder_name(snapshot.round)} holds no state of parties {missing}: "
            f"resume with the number of parties that the run was started with"
        )

"""The folders of a checkpoint store; only rank 0 changes them.

root/round-00000012/             one checkpoint
root/round-00000013.tmp-1f2e/    one being written or removed, or what a killed run left of one
root/round-00000012.replaced/    for a moment, while round 12 is written a second time
root/best.json                   the round of the best checkpoint
"""

import json
import re
import secrets
import shutil
from pathlib import Path
from typing import Final

from hpc_fl.resilience.durable import sync_folder, write_durably

BEST: Final = "best.json"
_ROUND = re.compile(r"round-(\d{8,})")
_REPLACED = ".replaced"


def folder_name(round: int) -> str:
    """Return the name of the folder of round `round`."""
    return f"round-{round:08d}"


def rounds(root: Path) -> list[int]:
    """Return the rounds that have a folder, ascending, intact or not."""
    if not root.is_dir():
        return []
    found = (_ROUND.fullmatch(path.name) for path in root.iterdir() if path.is_dir())
    return sorted(int(match[1]) for match in found if match)


def begin(root: Path, round: int) -> Path:
    """Make the temporary folder of round `round`, removing what killed runs left. Raises OSError."""
    root.mkdir(parents=True, exist_ok=True)
    recover(root)
    for leftover in root.glob("round-*.tmp-*"):
        shutil.rmtree(leftover, ignore_errors=True)  # tried again at the next write
    temporary = _temporary(root / folder_name(round))
    temporary.mkdir()
    return temporary


def recover(root: Path) -> None:
    """Finish or undo a replacement that a kill cut in two. Raises OSError."""
    for old in root.glob(f"round-*{_REPLACED}"):
        final = old.with_suffix("")
        if final.exists():
            discard(old)
        else:
            old.rename(final)


def install(temporary: Path, final: Path) -> None:
    """Give a complete and synced temporary folder its name, in place of an older folder of that name.

    A kill at any moment leaves the old or the new one, to be found by `recover`. Raises OSError.
    """
    if final.exists():
        final.rename(final.with_name(final.name + _REPLACED))
    temporary.rename(final)
    sync_folder(final.parent)
    recover(final.parent)


def discard(folder: Path) -> None:
    """Remove a checkpoint so that a kill half-way leaves no half checkpoint. Raises OSError."""
    doomed = _temporary(folder)
    folder.rename(doomed)
    # Network file systems keep a file that someone has open: the next write removes the rest.
    shutil.rmtree(doomed, ignore_errors=True)


def prune(root: Path, newest: int, keep: int) -> list[int]:
    """Remove all but the last `keep` checkpoints and the best one; return the removed rounds above `newest`.

    Those come from a run that was since resumed from an earlier round. Without them the newest checkpoint is
    always the one written last. Raises OSError.
    """
    present = rounds(root)
    kept = [round for round in present if round <= newest]
    superseded = present[len(kept) :]
    favourite = best(root)
    if favourite in superseded:
        (root / BEST).unlink()
    for round in superseded + [round for round in kept[:-keep] if round != favourite]:
        discard(root / folder_name(round))
    return superseded


def best(root: Path) -> int | None:
    """Return the round in best.json; None when there is no such file or it cannot be understood."""
    try:
        round = json.loads((root / BEST).read_bytes())["round"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return round if isinstance(round, int) else None


def set_best(root: Path, round: int) -> None:
    """Point best.json to round `round`; a kill leaves the old or the new file. Raises OSError."""
    temporary = root / f"{BEST}.tmp"
    write_durably(temporary, [json.dumps({"round": round}).encode() + b"\n"])
    temporary.replace(root / BEST)
    sync_folder(root)


def _temporary(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.tmp-{secrets.token_hex(4)}")

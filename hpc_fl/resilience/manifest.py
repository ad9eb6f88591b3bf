"""What a checkpoint consists of; written last, so that a folder without an intact manifest is none."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Final

from hpc_fl.errors import CheckpointError
from hpc_fl.resilience.durable import DamagedError, FileRecord

MANIFEST: Final = "manifest.json"
FORMAT: Final = "hpc_fl checkpoint"
VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Manifest:
    """`files` by name; `parties`: the file that holds each party's state; `round` and `meta` of the snapshot.

    On disk it is one JSON object whose first line holds the SHA-256 of all bytes after that line.
    """

    round: int
    meta: dict[str, Any]
    files: dict[str, FileRecord]
    parties: dict[int, str]

    def encode(self) -> bytes:
        """Return the bytes of the manifest file; CheckpointError when `meta` is not JSON with string keys."""
        _require_string_keys(self.meta, "meta")
        body = {
            "format": FORMAT,
            "version": VERSION,
            "round": self.round,
            "files": {name: asdict(record) for name, record in self.files.items()},
            "parties": self.parties,
            "meta": self.meta,
        }
        try:
            rest = json.dumps(body, indent=1)[1:].lstrip().encode()
        except (TypeError, ValueError) as error:
            raise CheckpointError(
                f"meta cannot be written as JSON: {error}; use numbers, text, lists"
            ) from error
        return _first_line(rest) + rest

    @classmethod
    def decode(cls, data: bytes) -> "Manifest":
        """Read a manifest file's bytes; DamagedError when they are not exactly what `encode` returned."""
        rest = data.partition(b"\n")[2]
        if data != _first_line(rest) + rest:
            raise DamagedError(f"{MANIFEST} was altered: its SHA-256 is not the one in its first line")
        try:
            body = json.loads(data)
            if (body["format"], body["version"]) != (FORMAT, VERSION):
                raise DamagedError(
                    f"{MANIFEST} says {body['format']!r} version {body['version']!r}, this hpc_fl reads "
                    f"{FORMAT!r} version {VERSION}: read it with the hpc_fl that wrote it"
                )
            return cls(
                round=body["round"],
                meta=body["meta"],
                files={name: FileRecord(**record) for name, record in body["files"].items()},
                parties={int(party): name for party, name in body["parties"].items()},
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedError(f"{MANIFEST} cannot be understood: {error!r}") from error


def _first_line(rest: bytes) -> bytes:
    return b'{"sha256": "' + hashlib.sha256(rest).hexdigest().encode() + b'",\n'


def _require_string_keys(value: object, where: str) -> None:
    # JSON would turn other keys into text without a word, and a resumed run would not find them.
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise CheckpointError(f"{where} has the key {key!r}: checkpoint keys must be text, use str()")
            _require_string_keys(item, f"{where}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _require_string_keys(item, f"{where}[{index}]")

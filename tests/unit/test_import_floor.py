"""The floors of DESIGN.md ("The house"): an import points to a lower floor, or stays in its own package.

A unit is a folder or a file directly under hpc_fl/. Imports inside functions, under TYPE_CHECKING and by
`import_module("...")` count as well. errors.py imports nothing, and everybody may import it, on L0 too.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

PACKAGE: Final = Path(__file__).resolve().parents[2] / "hpc_fl"
FLOORS: Final[dict[str, int]] = {
    "counter": 0,
    "errors": 0,
    "flat": 0,
    "telemetry": 0,
    "versions": 0,
    "backends": 1,
    "comm": 1,
    "data": 1,
    "models": 1,
    "parallel": 1,
    "topology": 1,
    "compression": 2,
    "training": 2,
    "collectives": 3,
    "privacy": 3,
    "exchange": 4,
    "optimizers": 5,
    "strategies": 5,
    "resilience": 5,
    "build": 6,
    "config": 6,
    "metrics": 6,
    "report": 6,
    "rounds": 6,
    "rundir": 6,
    "bench": 7,
    "doctor": 7,
    "federation": 7,
    "horovod": 7,
    "session": 7,
    "__init__": 8,
    "__main__": 8,
    "cli": 8,
}
NEVER: Final = {("compression", "comm"): "codecs know nothing of ranks"}
NEIGHBOURS: Final = {
    ("build", "config"),
    ("build", "rounds"),
    ("optimizers", "strategies"),
    ("rundir", "config"),
    ("session", "federation"),
    ("bench", "session"),
    ("__main__", "cli"),
}
"""Imports on one floor: build makes objects of the config, rounds among them, and rundir keeps it; optimizers
have strategies on a rank; a session runs a federation, a benchmark measures one, __main__ starts the cli.
"""
BASEMENT: Final = "errors"


def breaches(package: Path) -> list[str]:
    """Return a line for each import under `package` that the floors forbid and each unit without a floor."""
    units = {path.stem if path.suffix == ".py" else path.name for path in package.iterdir() if _is_unit(path)}
    found = [f"{unit}: not in FLOORS of {__file__}: place it there" for unit in sorted(units - FLOORS.keys())]
    for path in sorted(package.rglob("*.py")):
        source = _unit(path.relative_to(package))
        for line, target in _targets(path, package, units):
            reason = _why_not(source, target)
            if reason:
                where = f"{path.relative_to(package.parent)}:{line}"
                found.append(f"{where}: {source} imports {target}: {reason}")
    return found


def _why_not(source: str, target: str) -> str:
    """Return why unit `source` may not import unit `target`, or nothing."""
    if target in (source, BASEMENT) or (source, target) in NEIGHBOURS:
        return ""
    if target not in FLOORS:
        return "it has no floor"
    if source not in FLOORS:
        return ""  # reported once, as a unit without a floor
    if (source, target) in NEVER:
        return NEVER[source, target]
    above, below = FLOORS[source], FLOORS[target]
    return "" if below < above else f"L{above} may import lower floors only, {target} is L{below}"


def _targets(path: Path, package: Path, units: set[str]) -> Iterator[tuple[int, str]]:
    """Yield (line, unit) for every import of the package in the file at `path`."""
    parts = list(path.relative_to(package.parent).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(), filename=str(path))):
        for name in _imported(node, parts):
            top, _, rest = name.partition(".")
            if top == package.name:
                unit = rest.partition(".")[0]
                # `from hpc_fl import x`: x is a unit, or else a name that hpc_fl/__init__.py defines.
                yield getattr(node, "lineno", 0), unit if unit in units | FLOORS.keys() else "__init__"


def _imported(node: ast.AST, folder: list[str]) -> Iterator[str]:
    """Yield the absolute dotted names that `node`, in a module of the package `folder`, imports."""
    match node:
        case ast.Import():
            yield from (alias.name for alias in node.names)
        case ast.ImportFrom():
            base = folder[: len(folder) - node.level + 1] if node.level else []
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{prefix}.{alias.name}" for alias in node.names)
        case ast.Call(
            func=ast.Name(id=name) | ast.Attribute(attr=name), args=[ast.Constant(value=str(text)), *_]
        ):
            if name in ("import_module", "__import__"):
                yield text


def _unit(relative: Path) -> str:
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def _is_unit(path: Path) -> bool:
    return path.suffix == ".py" or (path.is_dir() and any(path.rglob("*.py")))


def _tree(root: Path, files: dict[str, str]) -> Path:
    package = root / "hpc_fl"
    for name, text in files.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return package


def test_the_house_stands() -> None:
    assert PACKAGE.is_dir()
    found = breaches(PACKAGE)
    assert not found, "\n".join(["imports against the floors of DESIGN.md:", *found])


UNITS = {
    "errors.py": "",
    "flat.py": "",
    "telemetry/ledger.py": "",
    "comm/mpi.py": "",
    "data/source.py": "",
    "training/local.py": "",
    "config.py": "",
    "build.py": "",
    "federation.py": "",
    "__init__.py": "",
}


@pytest.mark.parametrize(
    ("file", "text"),
    [
        pytest.param("comm/mpi.py", "from hpc_fl.training.local import x", id="higher floor"),
        pytest.param("comm/mpi.py", "import hpc_fl.data.source", id="same floor"),
        pytest.param("comm/mpi.py", "import os, hpc_fl.data.source as d", id="second of a line"),
        pytest.param("comm/mpi.py", "from hpc_fl import data", id="from the root"),
        pytest.param("comm/mpi.py", "from ..data import source", id="relative"),
        pytest.param("comm/mpi.py", "from .. import data", id="relative, package"),
        pytest.param("comm/deep/mpi.py", "from ...data import source", id="relative, deep"),
        pytest.param("comm/__init__.py", "from ..data import source", id="relative, in __init__"),
        pytest.param("comm/mpi.py", "def f():\n    import hpc_fl.data.source", id="inside a function"),
        pytest.param("comm/mpi.py", "if TYPE_CHECKING:\n    from hpc_fl.data import x", id="type checking"),
        pytest.param("comm/mpi.py", "importlib.import_module('hpc_fl.data')", id="import_module"),
        pytest.param("comm/mpi.py", "import hpc_fl", id="the root itself"),
        pytest.param("comm/mpi.py", "from hpc_fl import __version__", id="a name of the root"),
        pytest.param("flat.py", "from hpc_fl.telemetry import ledger", id="file to folder, same floor"),
        pytest.param("telemetry/ledger.py", "import hpc_fl.flat", id="folder to file, same floor"),
        pytest.param("config.py", "import hpc_fl.federation", id="file to file, higher floor"),
        pytest.param("config.py", "import hpc_fl.build", id="file to file, same floor"),
        pytest.param("errors.py", "import hpc_fl.flat", id="errors imports"),
        pytest.param("compression/topk.py", "from hpc_fl.comm import mpi", id="compression imports comm"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path: Path, file: str, text: str) -> None:
    found = breaches(_tree(tmp_path, UNITS | {file: text}))
    assert len(found) == 1
    assert found[0].startswith(f"hpc_fl/{file}:")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("comm/mpi.py", "from hpc_fl.telemetry.ledger import Ledger"),
        ("comm/mpi.py", "from hpc_fl.comm.transport import Transport"),
        ("comm/mpi.py", "from . import transport\nfrom .transport import Request"),
        ("comm/mpi.py", "import numpy\nfrom mpi4py import MPI\nimport data.source"),
        ("comm/deep/mpi.py", "from ..transport import Request\nfrom ... import flat"),
        ("telemetry/ledger.py", "from hpc_fl.errors import HpcFlError"),
        ("flat.py", "from hpc_fl.errors import HpcFlError"),
        ("__main__.py", "from hpc_fl.cli import main"),
        ("build.py", "from hpc_fl.config import Config\nfrom hpc_fl import errors, training"),
        ("__init__.py", "from hpc_fl.federation import Federation"),
    ],
)
def test_an_allowed_import_is_not_reported(tmp_path: Path, file: str, text: str) -> None:
    assert breaches(_tree(tmp_path, UNITS | {file: text})) == []


@pytest.mark.parametrize("file", ["novelty.py", "novelty/core.py"])
def test_a_unit_without_a_floor_is_asked_to_be_placed(tmp_path: Path, file: str) -> None:
    found = breaches(
        _tree(tmp_path, UNITS | {file: "import hpc_fl.cli\n", "cli.py": "import hpc_fl.novelty"})
    )
    assert len(found) == 2
    assert found[0].startswith("novelty: not in FLOORS")
    assert "place it there" in found[0]
    assert "cli imports novelty" in found[1]

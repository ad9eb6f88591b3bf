"""The documentation says what the code does: keys, links, command lines, YAML and Python in fenced blocks."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest
import torch
import typer
import yaml

from hpc_fl.cli import app
from hpc_fl.config import load_config, make_config

ROOT: Final = Path(__file__).resolve().parents[2]
PAGES: Final = sorted([*ROOT.glob("*.md"), *ROOT.joinpath("docs").rglob("*.md")])
IDS: Final = [str(page.relative_to(ROOT)) for page in PAGES]
QUIET: Final = {"progress": False, "tensorboard": False, "report": False}

_FENCE: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK: Final = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_COMMAND: Final = re.compile(r"(?:^|[\s/])hpc-fl\s+(.*)$|^bash scripts/quickstart\.sh(.*)$")

each_page = pytest.mark.parametrize("page", PAGES, ids=IDS)


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in these languages."""
    return [text for language, text in _FENCE.findall(page.read_text()) if language in languages]


def commands(page: Path) -> Iterator[list[str]]:
    """The words behind ``hpc-fl`` on each command line of a page's fenced blocks."""
    for block in blocks(page, "", "sh", "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            found = _COMMAND.search(line.split(" #")[0].strip())
            if found and found[1]:
                yield shlex.split(found[1])


def anchors(page: Path) -> set[str]:
    """The fragments that the headings of a page can be reached by."""
    prose = _FENCE.sub("", page.read_text())
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def config_table() -> ModuleType:
    """docs/tools/config_table.py."""
    path = ROOT / "docs" / "tools" / "config_table.py"
    spec = importlib.util.spec_from_file_location("config_table", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_block(text: str, name: str) -> dict[str, Any]:
    """The names that a Python block defines."""
    names: dict[str, Any] = {"__name__": name}
    exec(compile(text, name, "exec", dont_inherit=True), names)
    return names


def test_every_key_has_its_row_and_its_meaning() -> None:
    table = config_table()
    assert table.problems(table.PAGE.read_text()) == []


def test_a_missing_key_and_a_wrong_default_are_noticed() -> None:
    table = config_table()
    page = table.PAGE.read_text()
    row = next(line for line in page.splitlines() if line.startswith("| `rounds` |"))
    assert table.problems(page.replace(row + "\n", ""))
    assert table.problems(page.replace("| `30` |", "| `31` |"))
    assert table.problems(page.replace("<!-- keys: comm -->", ""))


@each_page
def test_relative_links_lead_somewhere(page: Path) -> None:
    prose = _FENCE.sub("", page.read_text())
    for link in _LINK.findall(prose):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, fragment = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{link} is dead"
        if fragment and target.suffix == ".md":
            assert fragment in anchors(target), f"{link}: no such heading in {target.name}"


@each_page
def test_command_lines_are_understood(page: Path) -> None:
    group: Any = typer.main.get_command(app)
    for words in commands(page):
        name, *arguments = words
        assert name in group.commands, f"hpc-fl {name}: no such command"
        context = group.commands[name].make_context(name, arguments)  # raises for an option that is not there
        settings = [word for word in context.params.get("settings") or [] if "=" in word]
        files = [ROOT / word for word in context.params.get("settings") or [] if "=" not in word]
        if name != "bench" and all(file.exists() for file in files):
            load_config(next(iter(files), None), settings)


@each_page
def test_yaml_blocks_are_configurations(page: Path) -> None:
    for block in blocks(page, "yaml"):
        assert make_config(yaml.safe_load(block)).rounds >= 1


def test_documented_commands_are_found() -> None:
    found = [words for page in PAGES for words in commands(page)]
    assert {words[0] for words in found} >= {"train", "data", "report", "config", "doctor", "bench"}


def test_the_library_example_learns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    example, collective = blocks(ROOT / "README.md", "python")
    run_block(example, "__main__")
    assert run_block(collective, "collective")["handle"].done()
    accuracy = re.search(r"accuracy (0\.\d+), files in", capsys.readouterr().out)
    assert accuracy is not None
    assert float(accuracy[1]) > 0.8


def test_own_code_runs_by_name_and_from_a_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from hpc_fl.session import train

    page = ROOT / "docs" / "guide" / "own-code.md"
    module, script = blocks(page, "python")
    (tmp_path / "mine.py").write_text(module)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    train(make_config({**yaml.safe_load(blocks(page, "yaml")[0]), "telemetry": QUIET, "runs": "by_name"}))
    run_block(script, "__main__")
    assert len(list(tmp_path.glob("by_name/mine-*/metrics.jsonl"))) == 1
    assert len(list(tmp_path.glob("runs/mine-*/metrics.jsonl"))) == 1
    assert "None" not in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize("executor", ["loop", "vmap"])
def test_the_fedprox_sketch_is_an_algorithm(
    executor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hpc_fl import build
    from hpc_fl.comm.inprocess import solo
    from hpc_fl.session import Session

    texts = blocks(ROOT / "docs" / "algorithms" / "README.md", "python")
    sketch, keys = (run_block(text, f"sketch{number}") for number, text in enumerate(texts))
    training = {"epochs": 2, "executor": executor}
    config = make_config(
        {"rounds": 1, "parties": 3, "data": "breast_cancer", "model": "logistic", "telemetry": QUIET}
        | {"training": training}
    )

    def moved(name: str, **options: float) -> Any:
        """How far one round moves the parameters."""
        section = keys["FedProxSection"](**options)
        assert section.options() == {"weighting": "samples", "lr": 1.0, "mu": 0.01} | options
        monkeypatch.setitem(build.STRATEGIES, "fedavg", lambda **_: sketch["FedProx"](**section.options()))
        session = Session(config, solo(), run_dir=tmp_path / name)
        before = session.federation.params.clone()
        session.run()
        return session.federation.params - before

    free, still, held = moved("free", mu=1e-30), moved("still", lr=1e-30), moved("held", mu=5.0)
    monkeypatch.undo()
    plain = Session(config, solo(), run_dir=tmp_path / "plain")
    before = plain.federation.params.clone()
    plain.run()
    # Without a correction, vmap moves the parameters in the pass that makes the gradient: it rounds once.
    torch.testing.assert_close(free, plain.federation.params - before, rtol=1e-5, atol=1e-6)
    assert not still.any()
    assert 0 < float(held.norm()) < 0.8 * float(free.norm())

"""docs/algorithms/topologies.md: its numbers are those of the code, and its examples run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import pytest

from hpc_fl import topology
from hpc_fl.topology import Schedule

PAGE: Final = (Path(__file__).resolve().parents[2] / "docs" / "algorithms" / "topologies.md").read_text()
ROW: Final = re.compile(r"^\| `(\w+)` \| ([^|]*) \| ([\d. /]+) \| ([\d /]+) \|", re.MULTILINE)
SIZES: Final = (8, 32, 128)


@pytest.mark.parametrize(("name", "sent", "gaps", "rounds"), ROW.findall(PAGE))
def test_the_table(name: str, sent: str, gaps: str, rounds: str) -> None:
    made = [getattr(topology, name)(size) for size in SIZES]
    schedules = [Schedule(one) for one in made]
    assert [f"{schedule.spectral_gap():.4f}" for schedule in schedules] == gaps.split(" / ")
    assert [str(schedule.rounds_to_consensus()) for schedule in schedules] == rounds.split(" / ")
    if sent.split(" (", maxsplit=1)[0].isdigit():
        degrees = {len(schedules[1].matrix(3).targets(node)) for node in range(SIZES[1])}
        assert degrees == {int(sent.split(" (", maxsplit=1)[0])}


def test_one_peer_where_the_size_is_no_power_of_two() -> None:
    told = re.search(r"its gap is ([\d.]+) at 5 nodes, ([\d.]+) at 12, ([\d.]+) at 100\.", PAGE)
    assert told is not None
    gaps = [Schedule(topology.one_peer_exponential(size)).spectral_gap() for size in (5, 12, 100)]
    assert [f"{gap:.2f}" for gap in gaps] == list(told.groups())


def test_the_table_has_every_topology_of_a_size() -> None:
    listed = {name for name, *_ in ROW.findall(PAGE)}
    assert listed == {
        name
        for name in topology.__all__
        if getattr(topology, name).__module__.endswith(("static", "dynamic", "sampled"))
    }


@pytest.mark.parametrize("text", re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
def test_the_examples_run(text: str) -> None:
    names: dict[str, Any] = {}
    exec(compile(text, "topologies.md", "exec"), names)
    assert "__builtins__" in names

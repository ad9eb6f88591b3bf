"""The kernel benchmark at a small size: it measures everything, and needs little to be there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hpc_fl.bench import kernels
from hpc_fl.bench.kernel_machines import machine_of
from hpc_fl.errors import ConfigError

TIME_LIMIT = 120.0

WITHOUT_EXTRAS = """
import importlib.abc, runpy, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {"pydantic", "typer", "rich", "yaml", "safetensors", "sklearn"}:
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Missing())
runpy.run_module("hpc_fl.bench", run_name="__main__")
"""


def test_every_operation_is_measured_beside_its_yardsticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    records = kernels.run({"n": "5000", "times": "1"})
    assert all(r.seconds > 0 and r.yardstick_seconds > 0 for r in records)
    assert {r.case.split(",")[0] for r in records if r.bar is None} == {"torch.add in place"}
    assert all(r.holds == (r.ratio <= r.bar) for r in records if r.bar is not None)
    beside = {yardstick: [r.case for r in records if r.yardstick == yardstick] for yardstick in YARDSTICKS}
    assert {name: len(cases) for name, cases in beside.items()} == YARDSTICKS
    moving = [r for r in records if r.yardstick == "torch.add"]
    one_bit = next(r for r in moving if r.case == "1-bit, gaussian")
    assert one_bit.bytes == round(12.125 * 5000)
    assert one_bit.bandwidth == one_bit.bytes / one_bit.seconds
    assert one_bit.share == pytest.approx(12.125 / 12 / one_bit.ratio)


YARDSTICKS = {
    "torch.add": 12,
    "torch topk path": 4,
    "torch + packbits path": 2,
    "gaussian": 4,
    "allowed": 5,
    "one thread": 6,
}


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(ConfigError, match="device: 'tpu' given, allowed: cpu, cuda"):
        machine_of("tpu", 1)


def test_it_runs_where_only_the_kernels_needs_are_met(tmp_path: Path) -> None:
    file = tmp_path / "records.json"
    command = [
        sys.executable,
        "-c",
        WITHOUT_EXTRAS,
        "kernels",
        "n=2000",
        "times=1",
        "peers=0",
        "--json",
        str(file),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIME_LIMIT)
    assert done.returncode == 0, done.stderr
    assert "1-bit, gaussian" in done.stdout
    header, *records = json.loads(file.read_text())
    assert header["benchmark"] == "kernels"
    assert len(records) == done.stdout.count("\n") - 2

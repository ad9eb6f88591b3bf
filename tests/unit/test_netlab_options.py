"""The virtual cluster, without one: mistakes are named before anything is made."""

import os

import pytest

from hpc_fl.bench import netns
from hpc_fl.bench.netlab import NetLab
from hpc_fl.errors import ConfigError


def test_without_the_rights_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ConfigError, match="need root: use sudo"):
        NetLab(2).up()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", "/nowhere")
    assert netns.why_not() == "netlab: no ip on PATH: apt-get install iproute2"


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        ({"rate": "1foo"}, "rate: got '1foo'"),
        ({"rate": "10%"}, "rate: got '10%'"),
        ({"rate": "0mbit"}, "rate: got '0mbit'"),
        ({"hosts": 0}, "hosts: got 0"),
        ({"name": "a-b"}, "name: got 'a-b'"),
        ({"mtu": 100}, "mtu: got 100"),
    ],
)
def test_a_mistake_is_named(mistake: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        NetLab(**mistake)  # type: ignore[arg-type]

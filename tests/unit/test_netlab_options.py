"""The virtual cluster, without one: mistakes are named before anything is made."""

import os

import pytest

from hpc_fl.bench import netns
from hpc_fl.bench.netlab import NetLab, end
from hpc_fl.errors import ConfigError


@pytest.mark.parametrize("name", ["..", "../x", "", "a/b", "A"])
def test_only_a_name_is_taken_down(name: str) -> None:
    for act in (end, NetLab.attach):
        with pytest.raises(ConfigError, match="name: got"):
            act(name)


def test_without_the_rights_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ConfigError, match="need root: use sudo"):
        NetLab(2).up()
    with pytest.raises(ConfigError, match="need root: use sudo"):
        end("lab")
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
        ({"ttl": 0.0}, "ttl: got 0"),
    ],
)
def test_a_mistake_is_named(mistake: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        NetLab(**mistake)  # type: ignore[arg-type]

#!/usr/bin/env python3
"""A virtual cluster on one machine: see docs/guide/netlab.md; from Python, hpc_fl/bench/netlab.py.

python scripts/netlab.py up --hosts 4 --rate 1gbit
python scripts/netlab.py run --timeout 60 -- python program.py
python scripts/netlab.py down
python scripts/netlab.py with --hosts 4 --rate 1gbit -- python program.py

Exit codes: the command's own; 2 where the lab cannot be made or does not exist; 124 after --timeout.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hpc_fl.bench.netlab import NetLab, end
from hpc_fl.errors import EXIT_CONFIG, EXIT_FAILURE, EXIT_OK, ConfigError, HpcFlError, TransportTimeout

_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_TIMED_OUT: Final = 124


def _stop(signum: int, _frame: FrameType | None) -> NoReturn:
    """Leave through every `with` and `finally`, once: a second signal must not interrupt the clearing up."""
    for ending in _ENDING:
        signal.signal(ending, signal.SIG_IGN)
    raise SystemExit(128 + signum)


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not name or not sign:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected NAME=VALUE")
    return name, value


def _run(lab: NetLab, given: argparse.Namespace) -> int:
    done = lab.run(
        given.command, ranks=given.ranks, per_host=given.per_host, timeout=given.timeout,
        env=dict(given.env), options=given.option,
    )  # fmt: skip
    return done.returncode


def _made(given: argparse.Namespace, name: str) -> NetLab:
    return NetLab(given.hosts, given.rate, name=name, mtu=given.mtu, ttl=given.ttl)


def act(given: argparse.Namespace) -> int:
    match given.action:
        case "up":
            lab = _made(given, given.name)
            lab.up()
            ends = f"{lab.layout.host_names[0]} to {lab.layout.host_names[-1]}, {lab.layout.network}"
            print(f"lab {given.name}: {ends}, {given.rate} links, for {given.ttl:g} s")
        case "down":
            end(given.name)
        case "run":
            return _run(NetLab.attach(given.name), given)
        case "with":
            with _made(given, given.name) as lab:
                return _run(lab, given)
        case "exec":
            lab = NetLab.attach(given.name)
            return lab.execute(
                given.host, given.command, timeout=given.timeout, env=dict(given.env)
            ).returncode
        case "counters":
            print(json.dumps(NetLab.attach(given.name).counters()))
    return EXIT_OK


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="netlab.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = top.add_subparsers(dest="action", required=True, metavar="up|run|exec|counters|down|with")
    helps = {
        "up": "make a lab", "run": "run an MPI program on all hosts", "exec": "run a command on one host",
        "counters": "bytes and packets of each host, as JSON", "down": "remove a lab and all that runs in it",
        "with": "up, run and down in one",
    }  # fmt: skip
    for kind, text in helps.items():
        sub = kinds.add_parser(kind, help=text, description=text)
        default = "" if kind == "with" else "lab"
        sub.add_argument(
            "--name", default=default, help=f"of the lab: letters and digits ({default or 'made up'})"
        )
        if kind in ("up", "with"):
            sub.add_argument("--hosts", type=int, default=4)
            sub.add_argument("--rate", default="1gbit", help="of each link, as tc writes it; none: unshaped")
            sub.add_argument("--mtu", type=int, default=9000)
            sub.add_argument("--ttl", type=float, default=3600.0, help="down by itself after SECONDS")
        if kind == "exec":
            sub.add_argument("host", type=int, help="1, 2, ...")
        if kind in ("run", "with"):
            sub.add_argument("--ranks", type=int, help="in all, spread evenly")
            sub.add_argument("--per-host", type=int, default=1, metavar="K", help="ranks on each host")
            sub.add_argument("--option", action="append", default=[], help="for mpirun: --option=WORD")
        if kind in ("run", "with", "exec"):
            sub.add_argument("--timeout", type=float, metavar="SECONDS", help="then kill all that it started")
            sub.add_argument("--env", type=_pair, action="append", default=[], metavar="NAME=VALUE")
            sub.add_argument("command", nargs="+", metavar="-- COMMAND")
    return top


def main() -> int:
    given = parser().parse_args()
    for ending in _ENDING:
        signal.signal(ending, _stop)
    try:
        return act(given)
    except HpcFlError as error:
        print(error, file=sys.stderr)
        if isinstance(error, TransportTimeout):
            return _TIMED_OUT
        return EXIT_CONFIG if isinstance(error, ConfigError) else EXIT_FAILURE


if __name__ == "__main__":
    sys.exit(main())

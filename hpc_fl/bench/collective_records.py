"""From what the ranks measured to records with their yardsticks and bars."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Final

from hpc_fl.bench.collective_cases import CASES, DENSE, HOROVOD, LIMIT, MPI, Case, break_even
from hpc_fl.bench.collective_ranks import Sample
from hpc_fl.bench.record import Record
from hpc_fl.collectives.dense import dense_bytes

SMALL: Final = 1024
"""Elements of the short messages, 4 KB."""
LONG: Final = 10_000_000
"""Elements from which on the bars for times are meant."""
FORMULA: Final = "formula"
COUNTED: Final = "interface - ledger"
PAYS: Final = "break-even"
ANY: Final = 1e6
"""Gbit/s that stand for every speed of network, where a scheme adds no time."""

_SMALL_BAR: Final = 1.5
_WIRE_BAR: Final = 3.0
_LARGE_MESSAGE: Final = 1_000_000
_MARGIN: Final = 1.03
"""Bytes over a formula's: headers of messages, scales of pieces."""


@dataclass(frozen=True)
class Place:
    """Where was measured: ``lab`` or ``local``; ``rate``: bit/s of a link there, None where none is set."""

    name: str
    rate: float | None


def records_of(
    place: Place, samples: Sequence[Sample], peers: Sequence[str], cases: Mapping[str, Case] = CASES
) -> list[Record]:
    """The records of one place, for schemes of ``cases``; a peer without samples is not installed, and bars
    against it hold None.
    """
    records: list[Record] = []
    for (n, ranks), some in groupby(samples, lambda sample: (sample.n, sample.ranks)):
        found = {sample.name: sample for sample in some}
        where = f"{_size(n)} x {ranks}, {place.name}"
        for name, sample in found.items():
            if name in cases:
                records += _Told(place, found, sample, cases[name], f"{name}, {where}").records(peers)
            elif sample.ended is not None:
                records.append(_endured(f"{name}, {where}", sample, sample.ended))
    return records


@dataclass(frozen=True)
class _Told:
    """A sample among those of its job."""

    place: Place
    found: Mapping[str, Sample]
    sample: Sample
    case: Case
    title: str

    def records(self, peers: Sequence[str]) -> Iterator[Record]:
        sample = self.sample
        if self.limit is not None:
            yield self._beside(LIMIT, self.limit)
        for peer in peers:
            there = self.found.get(peer)
            yield self._beside(peer, there.seconds) if there else self._without(peer)
        if self.place.name == "local" and self.pays is not None:
            yield self._break_even(min(self.pays, ANY))
        if sample.off is not None and sample.n > SMALL:
            bar = _WIRE_BAR if sample.bytes >= _LARGE_MESSAGE else None
            record = Record.at_most(
                f"{self.title}: {COUNTED}", 100 * sample.off, _WIRE_BAR, "%", **self._facts()
            )
            yield record if bar else replace(record, bar=None, holds=None)
        if self.case.formula is not None and sample.n > SMALL:
            promised = self.case.formula(sample.n, sample.ranks)
            yield Record.of(
                f"{self.title}: bytes", sample.bytes, FORMULA, promised, _MARGIN, unit="B", **self._facts()
            )

    @property
    def limit(self) -> float | None:
        """Seconds in which the link moves the bytes."""
        rate = self.place.rate
        return 8 * self.sample.bytes / rate if rate and self.sample.n > SMALL else None

    @property
    def pays(self) -> float | None:
        """Up to which Gbit/s it does, beside the job's fastest dense allreduce; None for one, and for short
        messages.
        """
        dense = [self.found[name] for name in DENSE if name in self.found]
        if not dense or self.sample in dense or self.sample.n <= SMALL:
            return None
        fastest = min(
            one.seconds for name, one in self.found.items() if one in dense or name in (MPI, HOROVOD)
        )
        added = self.sample.seconds - fastest
        # Not what dense sent here: in shared memory it may be nothing.
        plain = dense_bytes(self.sample.n, self.sample.ranks)
        return break_even(plain, self.sample.bytes, added) / 1e9

    def _beside(self, yardstick: str, seconds: float) -> Record:
        facts = self._facts()
        if self.limit is not None:
            facts["share"] = self.limit / self.sample.seconds
        return Record.of(self.title, self.sample.seconds, yardstick, seconds, self._bar(yardstick), **facts)

    def _without(self, peer: str) -> Record:
        """A record beside a peer that is not there: no ratio, and no verdict."""
        record = self._beside(f"{peer} (not installed)", self.sample.seconds)
        return replace(record, yardstick_seconds=0.0, ratio=0.0, bar=self._bar(peer), holds=None)

    def _bar(self, yardstick: str) -> float | None:
        if self.sample.n == SMALL:
            return _SMALL_BAR if (self.sample.name, yardstick) == ("dense", MPI) else None
        bars = self.case.lab if self.place.name == "lab" else self.case.local
        return bars.get(yardstick) if self.sample.n >= LONG else None

    def _break_even(self, speed: float) -> Record:
        wanted = self.case.break_even if self.sample.n >= LONG else None
        title = f"{self.title}: {PAYS}"
        record = Record.at_least(title, speed, wanted or 1.0, "Gbit/s", **self._facts())
        return record if wanted else replace(record, bar=None, holds=None)

    def _facts(self) -> dict[str, Any]:
        sample = self.sample
        pays = self.pays if self.place.name == "local" else None
        return {
            "n": sample.n, "ranks": sample.ranks, "threads": sample.threads, "bytes": sample.bytes,
            "wire": sample.wire, "break_even": None if pays is None else min(pays, ANY),
        }  # fmt: skip


def _endured(title: str, sample: Sample, ended: int) -> Record:
    """How many of the runs came to an end; one that did not takes those after it along."""
    wanted = float(sample.name.split()[-2])
    facts = {"n": sample.n, "ranks": sample.ranks, "threads": sample.threads}
    return Record.at_least(f"{title}: ended", float(ended), wanted, "runs", **facts)


def _size(n: int) -> str:
    """A number of elements, short: 25M, 1024, 16.8M."""
    return f"{n / 1e6:.3g}M" if n >= 1_000_000 else str(n)

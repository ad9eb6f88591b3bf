"""Topologies, mixers and decentralised algorithms: configuration -> objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from hpc_fl import strategies, topology
from hpc_fl.build.exchange import fitting_codec
from hpc_fl.build.parts import find, is_custom
from hpc_fl.collectives import (
    ChocoMixer,
    DenseMixer,
    DirectMixer,
    HierarchicalMixer,
    PairwiseMixer,
    SqueezeMixer,
)
from hpc_fl.collectives.mixer import Mixer, Placement
from hpc_fl.collectives.node import host_names
from hpc_fl.comm.transport import Transport
from hpc_fl.config import Config
from hpc_fl.config.exchange import Exchange as ExchangeSection
from hpc_fl.config.section import Named
from hpc_fl.errors import CodecError, ConfigError, TopologyError
from hpc_fl.exchange import GossipExchange
from hpc_fl.flat import FlatModel
from hpc_fl.strategies import MODEL, Decentralised
from hpc_fl.telemetry.ledger import Ledger
from hpc_fl.topology import Schedule, Topology

TOPOLOGIES: Final[dict[str, Callable[..., Topology]]] = {
    "ring": topology.ring,
    "directed_ring": topology.directed_ring,
    "grid": topology.grid,
    "torus": topology.torus,
    "star": topology.star,
    "complete": topology.complete,
    "hypercube": topology.hypercube,
    "exponential": topology.exponential,
    "one_peer_exponential": topology.one_peer_exponential,
    "one_peer_hypercube": topology.one_peer_hypercube,
    "random_matching": topology.random_matching,
    "random_regular": topology.random_regular,
    "erdos_renyi": topology.erdos_renyi,
    "small_world": topology.small_world,
    "expander": topology.expander,
}
SEEDED: Final = frozenset(("random_matching", "random_regular", "erdos_renyi", "small_world", "expander"))
"""Topologies that are drawn, and take the run's seed."""

WEIGHTS: Final[dict[str, topology.Rule | None]] = {
    "auto": None,
    "metropolis": topology.metropolis,
    "uniform": topology.uniform,
}
GOSSIP: Final[dict[str, Callable[..., Decentralised]]] = {
    "fedavg": lambda **_: strategies.DPSGD(),  # the configuration admits it as it is only
    "dpsgd": strategies.DPSGD,
    "sgp": strategies.SGP,
    "d2": strategies.D2,
    "gradient_tracking": strategies.GradientTracking,
    "quasi_global": strategies.QuasiGlobal,
    "adpsgd": strategies.ADPSGD,
}
"""Algorithms of parties with models of their own."""

MIXERS: Final[dict[str, Callable[..., Mixer]]] = {
    "direct": DirectMixer,
    "choco": ChocoMixer,
    "squeeze": SqueezeMixer,
}
"""By method of gossip: what mixes encoded rows. ``dense`` needs no codec."""

STEPS: Final = {"choco": "gamma", "squeeze": "eta"}
"""What methods that go a part of the way call ``exchange.gossip.step``."""


def make_decentralised(config: Config) -> Decentralised:
    """The configured algorithm, for parties that keep models of their own."""
    return GOSSIP[config.strategy.name](**config.strategy.options())


def make_schedule(
    config: Config, strategy: Decentralised, transport: Transport, placement: Placement
) -> Schedule:
    """The mixing matrices of all rounds, over the parties. Every rank must call it. Raises
    :class:`ConfigError` for a topology that cannot serve.
    """
    assert config.exchange.topology is not None
    try:
        found = _topology(config.exchange.topology, config, transport, placement)
        if found.size != config.parties:
            raise TopologyError(f"{found.name} has {found.size} nodes, parties are {config.parties}")
        schedule = strategies.schedule_of(strategy, found, WEIGHTS[config.exchange.gossip.weights])
        if strategy.pairwise and (schedule.directed or not schedule.static):
            raise TopologyError(f"{found.name}: strategy adpsgd needs an undirected one that does not change")
        return schedule
    except TopologyError as error:
        raise ConfigError(f"exchange.topology: {error}") from error


def _topology(section: Named, config: Config, transport: Transport, placement: Placement) -> Topology:
    if is_custom(section):
        custom: Topology = find(section.name, "exchange.topology.name")(
            config.parties, **section.options()["args"]
        )
        return custom
    options = section.options()
    if "path" in options:
        return topology.from_file(options["path"])
    if "group" in options:
        groups = GROUPS[options["group"]](transport, placement)
        return topology.hierarchical([group for group in groups if group], TOPOLOGIES[options["between"]])
    seed = {"seed": config.seed} if section.name in SEEDED else {}
    return TOPOLOGIES[section.name](config.parties, **options, **seed)


def _by_machine(transport: Transport, placement: Placement) -> list[list[int]]:
    names = host_names(transport)
    found: dict[str, list[int]] = {name: [] for name in names}
    for name, parties in zip(names, placement, strict=True):
        found[name] += parties
    return list(found.values())


GROUPS: Final[dict[str, Callable[[Transport, Placement], Sequence[Sequence[int]]]]] = {
    "machine": _by_machine,
    "rank": lambda _, placement: placement,
}
"""The parties that average first, in a hierarchical topology. Every rank must call it."""


def make_gossip(
    config: Config,
    model: FlatModel,
    strategy: Decentralised,
    schedule: Schedule,
    transport: Transport,
    ledger: Ledger,
    placement: Placement,
) -> GossipExchange:
    """The configured way for buffers to be mixed. Every rank must call it. Raises :class:`ConfigError` for a
    codec that the method cannot use.
    """
    if strategy.pairwise and any(len(ids) != 1 for ids in placement):
        raise ConfigError(
            f"strategy.name: got {config.strategy.name!r} with {config.parties} parties on {transport.size} "
            f"ranks, which needs one a rank; expected parties={transport.size}, or -n {config.parties}"
        )
    lengths = {MODEL: model.n, **strategy.travels(model.n)}
    try:
        make = _pairwise(config) if strategy.pairwise else _mixer(config.exchange, config, model)
        mixers = {
            name: _placed(make if length > 1 else DenseMixer, schedule)(transport, ledger, placement)
            for name, length in lengths.items()
        }
    except CodecError as error:
        raise ConfigError(f"exchange.codec: {error}") from error
    return GossipExchange(transport, schedule, mixers, ledger, elements=sum(lengths.values()))


Make = Callable[[Transport, Ledger, Placement], Mixer]


def _pairwise(config: Config) -> Make:
    return lambda transport, ledger, placement: PairwiseMixer(
        transport, ledger, placement, seed=config.seed, timeout=config.comm.timeout
    )


def _mixer(section: ExchangeSection, config: Config, model: FlatModel) -> Make:
    """What makes the mixer of the configured method."""
    if section.method == "dense":
        return DenseMixer
    codec = fitting_codec(config, model)
    options: dict[str, Any] = {}
    if section.method in STEPS:
        options[STEPS[section.method]] = section.gossip.step
    return lambda transport, ledger, placement: MIXERS[section.method](
        transport, ledger, placement, codec, **options
    )


def _placed(make: Make, schedule: Schedule) -> Make:
    """The same between groups, where there are groups: inside them, an allreduce."""
    if not schedule.groups:
        return make

    return lambda transport, ledger, placement: HierarchicalMixer(
        transport, ledger, placement, schedule.groups, make
    )

"""Which algorithms go with which way of meeting."""

from __future__ import annotations

from typing import Final

from hpc_fl.config.exchange import Exchange
from hpc_fl.config.gossip import CHANGING, DIRECTED
from hpc_fl.config.section import Named
from hpc_fl.config.strategies import DECENTRALISED, FedAvg
from hpc_fl.config.training import Optimizer

WITHOUT_MOMENTUM: Final = {
    "quasi_global": "which takes its place",
    "gradient_tracking": "whose corrections it enlarges until they diverge",
}


def pairing_problem(strategy: Named, exchange: Exchange, cohort: Named, optimizer: Optimizer) -> str | None:
    """Why the algorithm and the way in which parties meet do not fit together."""
    if exchange.topology is None:
        if strategy.name not in DECENTRALISED:
            return None
        return f"strategy.name: got {strategy.name!r} without exchange.topology; expected one, such as ring"
    if strategy.name not in DECENTRALISED and strategy != FedAvg():
        return (
            f"strategy.name: got {strategy.name!r} with exchange.topology: {exchange.topology.name}, where "
            f"there is no server; expected one of {', '.join(DECENTRALISED)}, or fedavg as it is (dpsgd)"
        )
    return (
        _choco_problem(strategy, exchange, cohort)
        or _weights_problem(strategy, exchange.topology, exchange.gossip.weights)
        or _momentum_problem(strategy, optimizer)
        or _pairwise_problem(strategy, exchange, cohort)
    )


def _choco_problem(strategy: Named, exchange: Exchange, cohort: Named) -> str | None:
    if exchange.method != "choco" or (cohort.name == "all" and strategy.name != "sgp"):
        return None
    return (
        f"exchange.codec: got {exchange.codec.name!r} (exchange.gossip.method: choco) with cohort: "
        f"{cohort.name} and strategy: {strategy.name}; compressed differences need all parties and doubly "
        "stochastic weights; expected cohort: all and another strategy than sgp, or exchange.gossip.method: "
        "squeeze, or a codec such as bf16"
    )


def _weights_problem(strategy: Named, topology: Named, weights: str) -> str | None:
    if strategy.name in ("sgp", "adpsgd") and weights != "auto":
        return (
            f"exchange.gossip.weights: got {weights!r} with strategy: {strategy.name}, which has its own; "
            "expected auto"
        )
    if strategy.name == "sgp" and topology.name == "hierarchical":
        return (
            "strategy.name: got 'sgp' with exchange.topology: hierarchical, whose weights keep the mean "
            "without it; expected dpsgd"
        )
    if strategy.name == "d2" and topology.name in DIRECTED:
        return (
            f"exchange.topology: got {topology.name!r} with strategy: d2, which needs symmetric weights; "
            "expected ring, torus, hypercube or another undirected one"
        )
    return None


def _momentum_problem(strategy: Named, optimizer: Optimizer) -> str | None:
    if strategy.name == "quasi_global" and optimizer.name != "SGD":
        return (
            f"training.optimizer.name: got {optimizer.name!r} with strategy: quasi_global, which measures "
            "the way of plain steps; expected SGD"
        )
    momentum = (optimizer.model_extra or {}).get("momentum")
    if strategy.name not in WITHOUT_MOMENTUM or not momentum:
        return None
    return (
        f"training.optimizer.momentum: got {momentum} with strategy: {strategy.name}, "
        f"{WITHOUT_MOMENTUM[strategy.name]}; expected 0"
    )


def _pairwise_problem(strategy: Named, exchange: Exchange, cohort: Named) -> str | None:
    assert exchange.topology is not None
    plain = exchange.method == "dense" and cohort.name == "all"
    unfit = (*DIRECTED, *CHANGING, "hierarchical")
    if strategy.name != "adpsgd" or (plain and exchange.topology.name not in unfit):
        return None
    return (
        f"strategy.name: got 'adpsgd' with exchange.topology: {exchange.topology.name}, exchange.codec: "
        f"{exchange.codec.name} and cohort: {cohort.name}; expected an undirected topology such as ring, "
        "codec identity and cohort all"
    )

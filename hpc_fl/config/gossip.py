"""Who gossips with whom, and how the mixing is encoded: a section for each topology."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, Tag

from hpc_fl.config.section import Count, Custom, Named, Section, choice

Share = Annotated[float, Field(gt=0, le=1)]


class Ring(Named):
    """Both neighbours in a circle."""

    name: Literal["ring"] = "ring"


class DirectedRing(Named):
    """The next one in a circle."""

    name: Literal["directed_ring"] = "directed_ring"


class Grid(Named):
    """A rectangle; ``rows`` null: the most square one."""

    name: Literal["grid"] = "grid"
    rows: Count | None = None


class Torus(Named):
    """A rectangle whose opposite sides touch; ``rows`` null: the most square one."""

    name: Literal["torus"] = "torus"
    rows: Count | None = None


class Star(Named):
    """All with party 0."""

    name: Literal["star"] = "star"


class Complete(Named):
    """All with all."""

    name: Literal["complete"] = "complete"


class Hypercube(Named):
    """Those whose numbers differ in one bit; a power of two of parties."""

    name: Literal["hypercube"] = "hypercube"


class Exponential(Named):
    """Those 1, 2, 4, ... further on, in every round."""

    name: Literal["exponential"] = "exponential"


class OnePeerExponential(Named):
    """One a round: the one 1, then 2, then 4, ... further on."""

    name: Literal["one_peer_exponential"] = "one_peer_exponential"


class OnePeerHypercube(Named):
    """One a round: the one whose number differs in bit 0, then 1, then 2, ...; a power of two of parties."""

    name: Literal["one_peer_hypercube"] = "one_peer_hypercube"


class RandomMatching(Named):
    """One a round, drawn anew."""

    name: Literal["random_matching"] = "random_matching"


class RandomRegular(Named):
    """``degree`` neighbours each, drawn once."""

    name: Literal["random_regular"] = "random_regular"
    degree: Count = 4


class ErdosRenyi(Named):
    """Each pair with probability ``p``, drawn once, until all are connected; null: 2 ln n / n."""

    name: Literal["erdos_renyi"] = "erdos_renyi"
    p: Share | None = None


class SmallWorld(Named):
    """A ring of ``degree`` neighbours, each edge led elsewhere with probability ``p``."""

    name: Literal["small_world"] = "small_world"
    degree: Count = 4
    p: Share = 0.1


class Expander(Named):
    """``degree`` neighbours each, with a large spectral gap."""

    name: Literal["expander"] = "expander"
    degree: Count = 4


class Hierarchical(Named):
    """The mean of the parties on a machine, or on a rank, then those means by ``between``."""

    name: Literal["hierarchical"] = "hierarchical"
    group: Literal["machine", "rank"] = "machine"
    between: Literal["ring", "complete", "exponential", "one_peer_exponential"] = "exponential"


class FromFile(Named):
    """A matrix or a list of edges in a file."""

    name: Literal["file"] = "file"
    path: Path


Topology = Annotated[
    Annotated[Ring, Tag("ring")]
    | Annotated[DirectedRing, Tag("directed_ring")]
    | Annotated[Grid, Tag("grid")]
    | Annotated[Torus, Tag("torus")]
    | Annotated[Star, Tag("star")]
    | Annotated[Complete, Tag("complete")]
    | Annotated[Hypercube, Tag("hypercube")]
    | Annotated[Exponential, Tag("exponential")]
    | Annotated[OnePeerExponential, Tag("one_peer_exponential")]
    | Annotated[OnePeerHypercube, Tag("one_peer_hypercube")]
    | Annotated[RandomMatching, Tag("random_matching")]
    | Annotated[RandomRegular, Tag("random_regular")]
    | Annotated[ErdosRenyi, Tag("erdos_renyi")]
    | Annotated[SmallWorld, Tag("small_world")]
    | Annotated[Expander, Tag("expander")]
    | Annotated[Hierarchical, Tag("hierarchical")]
    | Annotated[FromFile, Tag("file")]
    | Annotated[Custom, Tag("custom")],
    *choice("exponential"),
]

CHANGING = ("one_peer_exponential", "one_peer_hypercube", "random_matching")
"""Topologies whose neighbours change from round to round."""

DIRECTED = ("directed_ring", "exponential", "one_peer_exponential")
"""Topologies in which a party does not send to those that send to it."""


class Gossip(Section):
    """How mixing is encoded, where ``exchange.topology`` is given. ``method`` auto: the codec's usual one.
    ``step``: how far a party goes towards its neighbours in a round, for choco and squeeze; null: by the
    codec. ``weights`` auto: Metropolis-Hastings, uniform on regular directed graphs, push-sum for sgp.
    """

    method: Literal["auto", "dense", "direct", "choco", "squeeze"] = "auto"
    step: Share | None = None
    weights: Literal["auto", "metropolis", "uniform"] = "auto"

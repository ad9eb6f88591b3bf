"""What happens in a round: configuration -> objects."""

from __future__ import annotations

from dataclasses import dataclass

from hpc_fl.build.exchange import make_exchange
from hpc_fl.build.gossip import make_decentralised, make_gossip
from hpc_fl.build.parts import Parties, make_strategy
from hpc_fl.comm.transport import Transport
from hpc_fl.config import Config
from hpc_fl.data import PartyStore, Source
from hpc_fl.flat import FlatModel
from hpc_fl.rounds import AgreedRounds, GossipRounds, Rounds
from hpc_fl.telemetry.ledger import Ledger
from hpc_fl.telemetry.spans import Spans
from hpc_fl.topology import Schedule
from hpc_fl.training.cohort import Cohort
from hpc_fl.training.consensus import ConsensusEvaluator
from hpc_fl.training.evaluate import Evaluator
from hpc_fl.training.executor import Executor, LocalWork
from hpc_fl.training.losses import Loss
from hpc_fl.training.parties import LocalBuffers


@dataclass(frozen=True)
class Site:
    """What the rounds of a run are made of on this rank, besides the configuration."""

    model: FlatModel
    parties: Parties
    work: LocalWork
    cohort: Cohort
    executor: Executor
    buffers: LocalBuffers
    transport: Transport
    ledger: Ledger
    spans: Spans

    @property
    def measured(self) -> tuple[FlatModel, Loss, Source, PartyStore, LocalBuffers, Transport, Ledger]:
        """What every evaluator begins with."""
        test, store = self.parties.dataset.test, self.parties.store
        return self.model, self.work.loss, test, store, self.buffers, self.transport, self.ledger


def make_rounds(config: Config, site: Site, schedule: Schedule | None) -> Rounds:
    """Rounds over the topology of ``schedule``, or, where that is None, rounds that agree on one model. Every
    rank must call it.
    """
    return _agreed(config, site) if schedule is None else _gossip(config, site, schedule)


def _agreed(config: Config, site: Site) -> AgreedRounds:
    model, store, strategy = site.model, site.parties.store, make_strategy(config)
    exchange = make_exchange(config, model, strategy, site.transport, site.ledger, store.party_ids)
    evaluator = Evaluator(*site.measured, spread=config.evaluate.parties)
    return AgreedRounds(
        model=model,
        hosted=store.party_ids,
        samples=site.parties.partition.sizes,
        cohort=site.cohort,
        executor=site.executor,
        strategy=strategy,
        exchange=exchange,
        evaluator=evaluator,
        buffers=site.buffers,
        spans=site.spans,
    )


def _gossip(config: Config, site: Site, schedule: Schedule) -> GossipRounds:
    model, store, strategy = site.model, site.parties.store, make_decentralised(config)
    placement = site.parties.placement
    exchange = make_gossip(config, model, strategy, schedule, site.transport, site.ledger, placement)
    evaluator = ConsensusEvaluator(*site.measured, parties=config.parties, spread=config.evaluate.parties)
    return GossipRounds(
        model=model,
        parties=config.parties,
        hosted=store.party_ids,
        cohort=site.cohort,
        executor=site.executor,
        strategy=strategy,
        exchange=exchange,
        evaluator=evaluator,
        buffers=site.buffers,
        learning_rate=site.work.optimizer.learning_rate,
        spans=site.spans,
    )

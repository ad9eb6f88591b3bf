"""What happens in a round: parties train and agree on one model, or keep their own and gossip."""

from hpc_fl.rounds.agreed import AgreedRounds
from hpc_fl.rounds.gossip import GossipRounds
from hpc_fl.rounds.rounds import Rounds, RoundState, part

__all__ = ["AgreedRounds", "GossipRounds", "RoundState", "Rounds", "part"]

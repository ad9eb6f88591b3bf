"""The state of a run between two rounds."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass
class Snapshot:
    """Everything that a run needs to go on after `round` complete rounds, on any number of ranks.

    `tensors` and `meta` are the same on every rank; rank 0's are written. `parties` holds the state of the
    parties hosted on this rank, by party id; a party without state has an empty dictionary, so that a party
    that a checkpoint lacks is known to be an error. Tensors may be of any shape (0-d and empty too), on any
    device, and views of one buffer. `meta` is JSON: keys are text (refused otherwise), tuples come back as
    lists.
    """

    round: int
    tensors: dict[str, Tensor] = field(default_factory=dict)
    parties: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)

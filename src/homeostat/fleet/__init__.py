"""Training several seeds of one network at once: stacked parameters, and batched products instead of R small ones."""

from homeostat.fleet.fleet import Fleet
from homeostat.fleet.frozen import FrozenFleet
from homeostat.fleet.random_streams import RandomStreams, ShuffledBatches

__all__ = ["Fleet", "FrozenFleet", "RandomStreams", "ShuffledBatches"]

"""Twins of torch's modules for stacked replicas. Importing this package registers them."""

from homeostat.fleet.twins import attention, convolution, elementwise, linear, norms
from homeostat.fleet.twins.twin import Lifting, lift

__all__ = ["Lifting", "attention", "convolution", "elementwise", "lift", "linear", "norms"]

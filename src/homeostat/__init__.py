"""Homeostat: the profiler and physician of a PyTorch training run."""

__version__ = "0.1.0"

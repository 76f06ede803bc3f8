"""Torch's optimizer-step and backward hooks, one set for the process."""

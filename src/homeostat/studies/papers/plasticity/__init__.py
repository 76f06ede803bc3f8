"""Studies of plasticity."""

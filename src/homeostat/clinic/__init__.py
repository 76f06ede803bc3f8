"""Measures how often the diagnosis is right on whole training programs: a generator of scripts, a runner, and rates."""

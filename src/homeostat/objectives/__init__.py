"""Losses, advantages and rewards as pure functions. Empty in this release."""

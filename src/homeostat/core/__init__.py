"""Contracts and small pure helpers. Imports nothing but torch and numpy."""

"""Conditions of the data: its scale and its order."""

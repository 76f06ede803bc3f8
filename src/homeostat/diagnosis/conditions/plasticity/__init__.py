"""Conditions of lost plasticity: units, rank, slow learning."""

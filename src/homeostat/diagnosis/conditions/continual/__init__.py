"""Conditions of forgetting."""

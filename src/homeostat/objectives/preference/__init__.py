"""Objectives for preference pairs."""

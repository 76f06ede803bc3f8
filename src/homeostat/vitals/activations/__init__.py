"""Vitals of activations."""

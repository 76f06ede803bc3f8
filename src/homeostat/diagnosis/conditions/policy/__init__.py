"""Conditions of a policy that is trained by rewards."""

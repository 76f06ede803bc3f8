"""Treatments that keep weights at zero."""

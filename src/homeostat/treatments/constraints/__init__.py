"""Treatments that keep the weights in a set."""

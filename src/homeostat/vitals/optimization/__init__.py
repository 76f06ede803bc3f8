"""Vitals of the loss, gradients, updates and weights."""

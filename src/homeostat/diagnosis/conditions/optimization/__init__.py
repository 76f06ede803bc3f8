"""Conditions of the optimisation: loss, gradients, curvature."""

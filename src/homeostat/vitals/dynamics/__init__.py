"""Vitals of curvature and of twin runs."""

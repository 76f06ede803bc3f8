"""Treatments that add a penalty to the gradient."""

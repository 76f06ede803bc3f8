"""Families of curves that papers call laws of training: fit, forecast, interval. Empty in this release."""

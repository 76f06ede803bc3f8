"""Thin covers for training libraries. Empty in this release."""

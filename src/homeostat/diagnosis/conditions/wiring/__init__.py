"""Conditions of a wrongly wired script."""

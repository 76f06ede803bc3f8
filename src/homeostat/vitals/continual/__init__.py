"""Vitals of past and new tasks."""

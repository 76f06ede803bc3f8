"""Treatments for streams of tasks."""

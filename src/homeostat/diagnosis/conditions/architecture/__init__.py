"""Conditions of single layers: attention and normalisation."""

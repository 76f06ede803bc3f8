"""Finds the rows and columns of layers that belong to each unit, by experiments on a private copy."""

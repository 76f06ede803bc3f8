"""Treatments that reset units or shrink weights."""

"""Treatments that insert or replace normalisation layers."""

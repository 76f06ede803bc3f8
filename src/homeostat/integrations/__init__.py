"""Thin integrations with training libraries. Each library is imported only when it is used."""

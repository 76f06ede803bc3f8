"""Shared code of studies: harness, run cache, verdicts, tables and training loops."""

"""One file per claim, in a folder per field."""

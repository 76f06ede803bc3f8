"""One module a tracker. Its name is the name for `--log`.

A module has `LIBRARY` (what is imported), `PACKAGE` (what is installed) and `make(where)`, which returns its sink from
the text after the colon.
"""

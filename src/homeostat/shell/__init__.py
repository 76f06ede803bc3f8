"""The only package with side effects on training: attach, hooks, the unit graph, edits, `homeostat run`."""

"""The live view of runs: a local page, and the same in the terminal. Reads run records only."""

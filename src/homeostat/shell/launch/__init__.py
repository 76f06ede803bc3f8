"""`homeostat run`: a script in this process, observed."""

"""Shared foundations: errors, files, alphabet, units, recipe, and the records every package exchanges. No torch."""

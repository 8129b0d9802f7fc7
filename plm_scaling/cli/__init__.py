"""Command line: arguments and printing only."""

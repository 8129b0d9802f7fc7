"""Scaling laws as fitted values."""

"""Scaling studies of protein language models."""

"""Downstream scores: what others have published of public models. No torch."""

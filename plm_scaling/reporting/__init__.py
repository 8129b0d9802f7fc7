"""The report: a study's folder -> `Study` -> pictures, tables, sentences -> one offline HTML page. No torch."""

from __future__ import annotations

__all__: list[str] = []

"""Scaling laws as fitted values."""

from plm_scaling.laws.law_fit import Interval, IsoflopFit, IsoflopRow, LawFit, SurfaceFit
from plm_scaling.laws.zoo import PublishedLaw, find_law, load_zoo

__all__ = [
    "Interval",
    "IsoflopFit",
    "IsoflopRow",
    "LawFit",
    "PublishedLaw",
    "SurfaceFit",
    "find_law",
    "load_zoo",
]

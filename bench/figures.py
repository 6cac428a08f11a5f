"""What a measurement gives: figures by name, each with what is wanted of it."""

from collections.abc import Sequence
from typing import TypeAlias

Figures: TypeAlias = dict[str, tuple[float, str]]
"""A wish is ">= 0.80", "<= 250", or "" for a figure that others are compared with."""


def percentile(values: Sequence[float], percent: int) -> float:
    return sorted(values)[len(values) * percent // 100]


def verdict(value: float, wanted: str) -> str:
    """Whether it is as wanted; empty where nothing is."""
    if not wanted:
        return ""
    sign, bound = wanted.split()
    limit = float(bound.replace(",", ""))
    return "met" if (value >= limit if sign == ">=" else value <= limit) else "MISSED"

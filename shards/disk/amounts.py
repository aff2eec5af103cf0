"""Numbers as people write them, with a unit; pure.

In: a number. Out: a short text; and back. On disk: nothing.
"""

import re

_SIZES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def size_text(num_bytes: float) -> str:
    """``"9.6 MB"``, ``"907 GB"``, ``"12 bytes"``: at least two digits that count; 1 kB is 1,000 bytes."""
    for size, unit in _SIZES:
        if num_bytes >= size:
            value = num_bytes / size
            return f"{value:.1f} {unit}" if value < 99.95 else f"{value:,.0f} {unit}"
    return counted(round(num_bytes), "byte")


def time_text(seconds: float) -> str:
    """``"42 s"``, ``"12.5 min"``, ``"138.2 hours"``: hours from two on, because machines are paid by the hour."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} hours"


def counted(number: int, noun: str) -> str:
    """``"1 shard"``, ``"1,200 shards"``; for nouns whose plural ends in s."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def parse_size(text: str) -> float:
    """``"4GB"``, ``"1.5 tb"``, ``"800 MB"`` -> bytes. Raises ValueError for anything else, and for nothing."""
    found = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*([kMGT])B\s*", text, re.IGNORECASE)
    if found is None or not float(found[1]):
        raise ValueError(f"size: found {text[:40]!r}, expected a number with kB, MB, GB or TB, such as 4GB")
    units = {unit[0].lower(): size for size, unit in _SIZES}
    return float(found[1]) * units[found[2].lower()]


def parse_count(text: str) -> int:
    """``"7.7M"``, ``"1B"``, ``"300k"``, ``"12,000"`` -> a number. Raises ValueError for anything else, and for none."""
    found = re.fullmatch(r"\s*(\d{1,3}(?:,\d{3}){1,4}|\d{1,15})(\.\d{1,9})?\s*([kMB]?)\s*", text, re.IGNORECASE)
    factor = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}[found[3].lower()] if found else 0
    number = round(float(found[1].replace(",", "") + (found[2] or "")) * factor) if found else 0
    if number < 1 or (found and found[2] and factor == 1):
        raise ValueError(f"number: found {text[:40]!r}, expected one such as 300k, 7.7M, 1B or 12,000")
    return number

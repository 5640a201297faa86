"""Numbers as a reader sees them: no digit that means nothing, a true minus sign."""

from __future__ import annotations

import math


def rounded(value: float, error: float = math.nan, digits: int = 3) -> str:
    """A number without digits beyond its error; with no error, to so many significant digits.

    >>> rounded(3.6871, 0.52), rounded(12345.6, 80.0), rounded(0.00123456), rounded(-0.04, 0.3)
    ('3.7', '12350', '0.00123', '0.0')
    """
    if not math.isfinite(value):
        return "–" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    if value == 0 and not (math.isfinite(error) and error > 0):
        return "0"
    if math.isfinite(error) and error > 0:
        places = -math.floor(math.log10(error))
    else:
        places = digits - 1 - math.floor(math.log10(abs(value)))
    size = abs(value)
    if size >= 1e7 or (0 < size < 1e-4 and places > 4):
        significant = places + math.floor(math.log10(size))
        return f"{value:.{min(max(significant, 0), 6)}e}".replace("-", "−")
    text = f"{round(value, places):.{min(max(places, 0), 8)}f}"
    return (text.lstrip("-") if float(text) == 0 else text).replace("-", "−")


def grouped(value: float, places: int = 0) -> str:
    """A number with so many decimal places, its thousands set apart.

    >>> grouped(-12345.678, 1).replace("\\u202f", " ")
    '−12 345.7'
    """
    if not math.isfinite(value):
        return rounded(value)
    return f"{value:,.{places}f}".replace(",", "\u202f").replace("-", "−")

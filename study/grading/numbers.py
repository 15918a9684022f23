"""The last number of a text, exactly: how answers to word problems (GSM8K) are compared.

Read: digits with thousands separators, decimals, a sign, fractions (``3/4``), mixed numbers (``2 1/2``), powers of ten
written ``1.5e3``. Currency signs, percent signs and units beside a number are left out, so ``$18``, ``18 dollars`` and
``18%`` are 18. Numbers are compared as fractions, without any tolerance: ``18.0`` is 18, ``0.33`` is not 1/3. Not read:
numbers in words, and ``10^3``, whose last number is 3.
"""

from __future__ import annotations

import re
from fractions import Fraction

_WHOLE = r"(?:\d{1,3}(?:,\d{3})+|\d+)"
_NUMBER = re.compile(
    rf"(?<![\w.])(?P<sign>[-+])?\s?[$£€¥]?\s?"
    rf"(?:(?P<mixed>\d+)\s+(?P<a>\d+)/(?P<b>\d+)|(?P<top>{_WHOLE})\s?/\s?(?P<bottom>{_WHOLE})(?![\d/])"
    rf"|(?P<plain>{_WHOLE}(?:\.\d+)?|\.\d+)(?:[eE](?P<power>[-+]?\d{{1,2}})\b)?)"
)
_MINUS = str.maketrans("−–‒﹣－", "-----")


def last_number(text: str) -> Fraction | None:
    """Return the last number of a text, ``None`` where there is none (a division by zero is none)."""
    found: Fraction | None = None
    plain = text.translate(_MINUS)
    for match in _NUMBER.finditer(plain):
        value = _value(match)
        if value is None:
            continue
        sign = match["sign"] == "-" and _is_sign(plain, match.start())
        found = -value if sign else value
    return found


def _is_sign(text: str, at: int) -> bool:
    """Whether a minus is a sign: not where it joins two numbers or words ("3-4", "10 - 4")."""
    before = text[:at].rstrip()
    spaced = len(before) < at
    if not before or before[-1] in "=:(*[{$~≈,;|\n":
        return True
    return spaced and not before[-1].isdigit() and text[at + 1 : at + 2] != " "


def _value(match: re.Match[str]) -> Fraction | None:
    def whole(text: str) -> int:
        return int(text.replace(",", ""))

    if match["mixed"] is not None:
        bottom = int(match["b"])
        return Fraction(match["mixed"]) + Fraction(int(match["a"]), bottom) if bottom else None
    if match["top"] is not None:
        bottom = whole(match["bottom"])
        return Fraction(whole(match["top"]), bottom) if bottom else None
    value = Fraction(match["plain"].replace(",", ""))
    return value * Fraction(10) ** int(match["power"]) if match["power"] else value

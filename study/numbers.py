"""Numbers as they are written: what each of them says, exactly.

A number may be read in more than one way: ``70.000`` is 70 or, in much of Europe, 70 000; a number before a minus sign
may be negative; ``x64`` may be no number at all. So each has a first reading, which may be none, and a set of further
ones.

Read: thousands separators in every common writing (``9,500``, ``9{,}500``, ``1\\,080``, thin and hard spaces,
apostrophes, Indian groups), decimals, signs (``-3``, ``−3``, ``minus 3``), fractions (``3/4``, ``½``, ``\\frac{3}{4}``,
``2 1/2``), powers of ten (``1.5e3``, ``1.5 × 10^6``), multiples (``1.5 million``, ``70k``) and numbers in words.
Currency signs, percent signs and units beside a number are left out. Numbers are compared as fractions, without any
tolerance; a rounded one (``0.33`` for 1/3) is undecided.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

_GAP = r"\{,\}|\\[,;: !]|[\u00a0\u202f\u2009\u2007\u2008\u200a]"
_GROUPED = re.compile(
    rf"(?<![\d.,])(?<!\d['’])\d{{1,3}}(?:(?P<gap>,|['’]|{_GAP})\d{{3}}(?:(?P=gap)\d{{3}})*)"
    rf"(?!(?:[,'’]|{_GAP})?\d)"
)
_INDIAN = re.compile(r"(?<![\d.,])\d{1,2}(?:,\d{2})+,\d{3}(?!,?\d)")
_DIGIT = re.compile(r"\d")
_NOT_DIGITS = re.compile(r"\D")

_ONES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_SMALL = {word: k for k, word in enumerate(_ONES)} | {word: 10 * k for k, word in enumerate(_TENS, start=2)}
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_MULTIPLES = _SCALES | {"k": 10**3, "m": 10**6, "mn": 10**6, "bn": 10**9, "b": 10**9, "dozen": 12, "lakh": 10**5,
                        "crore": 10**7}  # fmt: skip
_WORD = "|".join(sorted([*_SMALL, *_SCALES], key=len, reverse=True))
_IN_WORDS = re.compile(rf"\b(?:{_WORD})(?:(?:[\s-]+|\s+and\s+)(?:{_WORD}))*\b", re.IGNORECASE)
_VULGAR = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅖": "2/5", "⅗": "3/5", "⅘": "4/5",
           "⅙": "1/6", "⅚": "5/6", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8"}  # fmt: skip
_SUPERSCRIPT = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_MINUS = str.maketrans("−–‒﹣－", "-----")
_DIGITS = r"\d+(?:\.\d+)?|(?<!\w)\.\d+"
_NUMBER = re.compile(
    r"(?P<sign>-\s?|\b(?:minus|negative)\s+)?(?:us|au|ca)?[$£€¥₹]?\s?(?P<inner>-)?"
    r"(?:(?P<mixed>\d+)\s+(?P<a>\d+)/(?P<b>\d+)(?![\d/])"
    r"|(?P<date>\d+(?:[:/]\d+){2,}|\d+:\d+)"
    r"|(?P<top>\d+)\s?/\s?(?P<bottom>\d+)(?![\d/])"
    r"|(?P<comma>\d+(?:,\d+)+)"
    rf"|(?P<spaced>\d{{1,3}}(?: \d{{3}})+)(?![\d.,]*\d)"
    rf"|(?P<plain>{_DIGITS})"
    r"(?:\s?(?:\*|x|×|·|\\times|\\cdot)\s?10\s?(?:\^|\*\*)\s?\{?(?P<power>-?\d{1,2})\}?|e(?P<exponent>[-+]?\d{1,2})\b"
    r"|\s?(?:\^|\*\*)\s?\{?(?P<raised>\d{1,2})\}?)?)"
    r"(?:(?P<percent>\s?\\?%|\s+percent\b|\s+per cent\b)|\s?(?P<times>" + "|".join(_MULTIPLES) + r")\b)?",
    re.IGNORECASE,
)
_FRACTION = re.compile(r"\\[dt]?frac\s?\{(\d+)\}\s?\{(\d+)\}")
_LARGEST = 40  # digits: a longer run is no answer


@dataclass(frozen=True, slots=True)
class Reading:
    """A number as it stands in a text: what it says at first sight (``None``: nothing certain), and what it may say."""

    value: Fraction | None
    others: frozenset[Fraction]
    start: int
    digits: int = 0  # after the decimal point

    @property
    def all(self) -> frozenset[Fraction]:
        """Every value that it may have."""
        return self.others | ({self.value} if self.value is not None else set())

    def may_be(self, right: Fraction) -> bool:
        """Whether some reading is the right number, or the right one rounded."""
        rounded = self.value is not None and abs(self.value - right) <= Fraction(1, 2 * 10**self.digits)
        exact_to = self.digits < 6 and (right * 10**self.digits).denominator != 1
        return right in self.all or (rounded and exact_to)


def ungroup(text: str) -> str:
    """Return a text whose numbers have no thousands separators, where those can be nothing else."""
    if _DIGIT.search(text) is None:
        return text
    text = _INDIAN.sub(lambda m: m[0].replace(",", ""), text)
    return _GROUPED.sub(lambda m: _NOT_DIGITS.sub("", m[0]), text)


def readings(text: str) -> list[Reading]:
    """Return the numbers of a text in their order, in digits or in words."""
    plain = plain_numbers(text)
    found = [reading for match in _NUMBER.finditer(plain) if (reading := _reading(plain, match)) is not None]
    return sorted([*found, *_in_words(plain)], key=lambda r: r.start)


def last_number(text: str) -> Fraction | None:
    """Return the first reading of a text's last number, ``None`` where there is none (a division by zero is none)."""
    found = [r.value for r in readings(text) if r.value is not None]
    return found[-1] if found else None


def plain_numbers(text: str) -> str:
    """Return the text with one sign for minus, plain fractions and numbers without separators or markup."""
    text = ungroup(text.translate(_MINUS))
    text = _FRACTION.sub(r" \1/\2 ", text)
    for sign, written in _VULGAR.items():
        if sign in text:
            text = re.sub(rf"(\d){sign}", rf"\1 {written}", text).replace(sign, written)
    text = re.sub(r"(?<=\d)[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+", lambda m: "^" + m[0].translate(_SUPERSCRIPT), text)
    text = re.sub(r"(?<=\d)\*\*(?=\d)", "^", text)
    text = re.sub(r"\*\*|__|(?<!\w)_(?=[-\d])|(?<=\d)_(?!\w)", "", text)
    return text.replace("\\$", "$").replace("\\%", "%")


def _reading(text: str, match: re.Match[str]) -> Reading | None:
    if sum(c.isdigit() for c in match[0]) > _LARGEST:
        return None
    value, others = _value(match)
    if value is None and not others:
        return None
    before = text[: match.start()]
    digit = next(k for k in range(match.start(), match.end()) if text[k].isdigit() or text[k] == ".")
    tail = before[-1:]
    if (match["sign"] is None and digit == match.start() and (tail.isalnum() or tail in (".", "_"))) or re.match(
        r"[a-z]*\d",
        text[match.end() :],
        re.IGNORECASE,
        # "A1", "x64", "Rs.64", "2x3": a number or a name.
    ):
        others, value = others | ({value} if value is not None else set()), None
    marked = match["sign"] or match["inner"]
    if marked:
        word = match["sign"] is not None and match["sign"].strip() != "-"
        sure = word or match["inner"] is not None or _is_sign(text, match.start())
        wide = {v for x in (others | ({value} if value is not None else set())) for v in (x, -x)}
        if value is not None:
            unary = word and re.search(r"\d\s*$", before) is not None  # "4 minus 7"
            value = -value if sure and not unary else value
        others = frozenset(wide)
    return Reading(value, frozenset(others) - {value}, match.start(), _decimals(match))


def _decimals(match: re.Match[str]) -> int:
    plain = match["plain"]
    return len(plain.partition(".")[2]) if plain and not match["times"] else 0


def _is_sign(text: str, at: int) -> bool:
    """Whether a minus is a sign: not where it joins two numbers or words ("3-4", "10 - 4")."""
    before = text[:at].rstrip()
    spaced = len(before) < at
    if not before or before[-1] in "=:(*[{$~≈,;|\n\"'`“‘«<>":
        return True
    return spaced and not before[-1].isdigit() and text[at + 1 : at + 2] != " "


def _value(match: re.Match[str]) -> tuple[Fraction | None, frozenset[Fraction]]:
    """Return the first reading and the further ones, without the sign."""
    none: frozenset[Fraction] = frozenset()
    if match["mixed"] is not None:
        bottom = int(match["b"])
        return (Fraction(match["mixed"]) + Fraction(int(match["a"]), bottom) if bottom else None), none
    if match["date"] is not None:
        times = [Fraction(p) for p in re.split("[:/]", match["date"])]
        whole = frozenset(times) | {times[0] + times[1] / 60}
        return (times[0] if len(times) == 2 and not times[1] else None), whole
    if match["top"] is not None:
        bottom = int(match["bottom"])
        return (Fraction(int(match["top"]), bottom) if bottom else None), none
    if match["comma"] is not None:  # "12,5": a decimal comma, or two numbers
        parts = match["comma"].split(",")
        both = frozenset(Fraction(p) for p in parts)
        return None, both | ({Fraction(f"{parts[0]}.{parts[1]}")} if len(parts) == 2 else none)
    if match["spaced"] is not None:  # "9 500": one number, if it isn't two
        parts = match["spaced"].split(" ")
        return Fraction("".join(parts)), frozenset(Fraction(p) for p in parts if not p.startswith("0"))
    value, others = Fraction(match["plain"]), set()
    head, point, tail = match["plain"].partition(".")
    if point and len(tail) == 3 and head.strip("0"):
        others.add(Fraction(head + tail))
    power = match["power"] or match["exponent"]
    if power:
        others |= {value, Fraction(power)}
        value *= Fraction(10) ** int(power)
    elif match["raised"]:
        others |= {value, Fraction(match["raised"])}
        value **= int(match["raised"])
    if match["times"]:
        factor = _MULTIPLES[match["times"].lower()]
        others |= {value}
        short = len(match["times"]) == 1 and match["times"].lower() != "k"  # "5 m" are metres as well
        others |= {value * factor}
        value = value if short else value * factor
    if match["percent"]:
        others |= {value / 100}
    return value, frozenset(others) - {value}


def _in_words(text: str) -> Iterator[Reading]:
    for match in _IN_WORDS.finditer(text):
        parts = [w for w in re.split(r"[\s-]+", match[0].lower()) if w != "and"]
        if re.search(r"\d\s*$", text[: match.start()]):  # "1.5 million" has been read
            continue
        value = _words_value(parts)
        found = frozenset(Fraction(_SMALL.get(w, _SCALES.get(w, 0))) for w in parts)
        loose = parts == ["one"] or parts[0] in _SCALES  # "one of them", "hundreds"
        first = None if value is None or loose else Fraction(value)
        others = found | ({Fraction(value)} if value is not None else set())
        if re.search(r"\b(?:minus|negative)\s+$", text[: match.start()], re.IGNORECASE):
            others |= {-v for v in others}
            first = -first if first is not None else None
        yield Reading(first, others - {first}, match.start())


def _words_value(parts: list[str]) -> int | None:
    """Return the value of number words ("one hundred five"), ``None`` for a row of them that is no number."""
    total, current, last = 0, 0, 10**15
    for word in parts:
        if word in _SMALL:
            size = _SMALL[word]
            if last < 10 or (10 <= last < 20) or (20 <= last < 100 and size >= 10):
                return None
            current, last = current + size, size
        elif word == "hundred":
            current, last = max(current, 1) * 100, 100
        else:
            total, current, last = total + max(current, 1) * _SCALES[word], 0, _SCALES[word]
    return total + current

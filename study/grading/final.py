"""The number that an answer ends with: how answers to word problems (GSM8K) are compared.

An answer is *correct* where the first reading of its final number is the right one, *incorrect* only where no reading
of it is, and undecided in between.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from warmeng.study.grading.lexicon import SAYS_RIGHT, YOURS
from warmeng.study.numbers import Reading, plain_numbers, readings

_BOXED = re.compile(r"\\(?:boxed|fbox)\s?\{")
_MARKED = re.compile(r"^\s*####\s*(?P<rest>.*)$", re.MULTILINE)
_SAYS = re.compile(r"\b(?:answer|result)(?:\s+is|\s*[:=]|\s+would be)+[\s:*_$`\\(\[]*(?=[-−\w.$£€¥½¼¾])", re.IGNORECASE)
_CORRECTS = re.compile(
    r"\b(?:wait|correction|sorry|oops|mistake|recalculat\w*|actually|instead|hmm+|redo|let me (?:check|try)|nope)\b"
    r"|\bno[,.!]",
    re.IGNORECASE,
)
# A clause that does not simply say its number: it denies or doubts it, says it of someone else, or bounds it.
_DOUBTS = re.compile(
    r"\b(?:not|never|no|cannot|dont|doesnt|didnt|isnt|wasnt|cant|wont|wrong|incorrect|mistaken|false|maybe|perhaps|possibly|probably|might|unsure|guess|if"
    r"|unless|some (?:would )?say|too (?:high|low|many|few|much|little)|off by|close)\b|n['’]t\b|√"
    r"|\b(?:neither|either|nor|without|rather than|instead of|opposed to)\b|\?",
    re.IGNORECASE,
)
_BOUNDS = re.compile(
    r"\b(?:(?:more|less|fewer|greater|higher|lower|larger|smaller|rather) than|at (?:least|most)|between|almost"
    r"|nearly|twice|thrice|double|half(?: of)?|squared?|over|under|above|below|[<>≤≥]=?)\W*$",
    re.IGNORECASE,
)
_TERM = re.compile(
    r"\s*(?:[*+×·]|/\s*\d|-\s*\d|squared\b|cubed\b|(?:plus|minus|times|divided by|multiplied by)\s"
    r"|(?:more|less|fewer) than\s+\$?\d)(?!\*)",
    re.IGNORECASE,
)
_SMALL = r"(?:\d\)?|(?:ty|teen|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|dozen|hundred))"
_TERM_OF = re.compile(
    rf"{_SMALL}\s*(?:[*+×·x^]|(?:plus|minus|times|divided by|multiplied by)\b)\s*[$(]?\s*$", re.IGNORECASE
)
_SUBTRACTED = re.compile(r"\s*(?:-|minus\b|negative\b)", re.IGNORECASE)
_STOP = re.compile(r"[,;:.!](?!\d)|\b(?:but|so|and|because|since)\b|\s[-–—]\s(?!\d)|[()=\n]", re.IGNORECASE)
_WORD = re.compile(r"[-+$€£¥(]*[\w.,/%^]*[\w%]")
_OPERATES = re.compile(r"\d\s*[*+×/]\s*\d|\d\s-\s\d")
_ASIDE = re.compile(r"\([^()]*\)")
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=\D)|\n+")


@dataclass(frozen=True, slots=True)
class Final:
    """The number that an answer ends with: ``marked`` where the text says that it is the answer.

    ``beside`` are the other numbers of the same statement, ``before`` those of the rest of the text. ``doubted``: it is
    not simply said ("it is not 18"), or it is a part of a calculation that is not done.
    """

    reading: Reading
    marked: bool
    beside: tuple[Reading, ...]
    before: tuple[Reading, ...]
    doubted: bool = False

    def is_right(self, right: Fraction) -> bool:
        """Whether the answer is the right number, without another way to read it."""
        return self.reading.value == right and not self.doubted

    def is_wrong(self, right: Fraction) -> bool:
        """Whether the answer can't be the right number."""
        if self.doubted or self.reading.may_be(right) or any(r.may_be(right) for r in self.beside):
            return False
        return self.marked or not any(r.may_be(right) for r in self.before)


def final_number(text: str) -> Final | None:
    """Return the number that a text gives as its answer, ``None`` where it has no number.

    What is marked as the answer (``####``, a box, "the answer is") goes before the last number, and what follows a
    mark is run-on text. Where it corrects the mark ("Wait, ..."), nothing is certain.
    """
    marks = _marks(text)
    if not marks:
        return _last(text)
    start, end, numbers = marks[-1]
    others = {v for _, _, found in marks for r in found for v in r.all} | numbers[-1].all
    value = numbers[-1].value if len({found[-1].value for _, _, found in marks}) == 1 else None
    if _CORRECTS.search(text, end) and (later := readings(text[end:])):
        value, others = None, others | {v for r in later for v in r.all}
    last = Reading(value, frozenset(others), numbers[-1].start, numbers[-1].digits)
    sentence = re.split(r"[.!?]\s|\n", text[:start])[-1]
    said = plain_numbers(text[start:end])
    doubted = is_doubted(f"{sentence} {said}", len(sentence) + 1 + last.start) if start < end else False
    return Final(last, True, (), tuple(readings(text[: marks[0][0]])), doubted)


def is_doubted(said: str, at: int) -> bool:
    """Whether the clause of a statement does not simply say the number at ``at``, or goes on to calculate with it."""
    at += len(said[at:]) - len(said[at:].lstrip())
    word = _WORD.match(said, at)
    end = word.end() if word else at + 1
    before = next((m.end() for m in reversed(list(_STOP.finditer(said, 0, at)))), 0)
    after = _STOP.search(said, end)
    clause = said[before : after.start() if after else len(said)]
    plain = re.sub(r"[^\w\s]", "", clause.casefold())
    yours = (YOURS.search(plain) or re.search(r"\byour \w*\d", plain)) and not SAYS_RIGHT.search(plain)
    return bool(
        _DOUBTS.search(clause)
        or yours
        or _BOUNDS.search(said[before:at])
        or _TERM.match(said, end)
        or _TERM_OF.search(said[:at])
        or (_SUBTRACTED.match(said, at) and re.search(rf"{_SMALL}\s*$", said[:at], re.IGNORECASE))
    )


def _marks(text: str) -> list[tuple[int, int, list[Reading]]]:
    """Return what a text marks as its answer: start, end and numbers, of which the last one is the answer.

    Of several ``####`` only the first counts; of several boxes or sentences all, which have to agree.
    """
    lines = [(m.start("rest"), m.end(), readings(m["rest"])) for m in _MARKED.finditer(text) if _is_value(m["rest"])]
    if lines:
        return lines[:1]
    boxes = [
        (m.end(), m.end() + len(inner), readings(inner))
        for m in _BOXED.finditer(text)
        if (inner := _inside(text, m.end()))
    ]
    if boxes := [box for box in boxes if box[2]]:
        return boxes
    found = []
    for match in _SAYS.finditer(text):
        said = _SENTENCE.split(text[match.end() :], maxsplit=1)[0]
        numbers = readings(said)
        if not numbers or numbers[0].start > len("approximately $"):
            continue
        if "=" in said or _OPERATES.search(said):  # "the answer is 9 * 2 = 18"
            return []
        end = match.end() + len(said)
        found.append((match.end(), end, [*numbers[1:], numbers[0]]))  # "18 of the 20": the first one
    return found


def _last(text: str) -> Final | None:
    statements = [part for part in _SENTENCE.split(plain_numbers(text)) if part.strip()]
    found = [(part, numbers) for part in statements if (numbers := readings(part))]
    if not found:
        return None
    part, numbers = found[-1]
    before = tuple(r for _, others in found[:-1] for r in others)
    main = readings(_ASIDE.sub(lambda m: " " * len(m[0]), part))
    last = (main or numbers)[-1]
    beside = tuple(r for r in numbers if r.start != last.start)
    asides = main and len(main) < len(numbers)
    turned = re.search(r"=\s*[^=]*\d\s*[*+×x/-]\s*\d[^=]*$", part) is not None  # "18 = 9 * 2"
    if turned or (asides and len(main) > 1):
        last = Reading(None, last.all, last.start, last.digits)
    return Final(last, False, beside, before, is_doubted(part, last.start))


def _is_value(line: str) -> bool:
    """Whether a line that begins with ``####`` is an answer, and no heading ("#### 2. Multiply", "#### Step 2")."""
    numbers = readings(line)
    letters = re.sub(r"[\d\W_]", "", line)
    return bool(numbers) and len(letters) <= 12 and not re.match(r"\s*(?:step|part|\d+[.):]\s*\D)", line, re.IGNORECASE)


def _inside(text: str, start: int) -> str:
    depth, at = 1, start
    while at < len(text) and depth:
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        at += 1
    return text[start : at - 1] if not depth else text[start:at]

"""An exam vignette told as a relative's case: "A 22-year-old woman presents ..." is "My sister, 22, presents ...".

Rules over the first sentence and the words for the patient, not a parser. What they can't do soundly is left as it
was, with the reason; every conversion is checked for the traces that such rules leave.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from warmeng.study.tasks.open_ended import openly

# Word for the patient -> gender, or None where the pronouns must say.
PEOPLE = {
    **dict.fromkeys(("man", "male", "boy", "gentleman", "fisherman", "policeman"), "m"),
    **dict.fromkeys(("woman", "female", "girl", "lady", "primigravida", "multigravida", "primigravid"), "f"),
    **dict.fromkeys(("infant", "newborn", "neonate", "baby", "child", "toddler", "patient", "person", "student"), None),
    **dict.fromkeys(("worker", "teacher", "nurse", "farmer", "lawyer", "engineer", "accountant", "retiree"), None),
    **dict.fromkeys(("athlete", "runner", "musician", "physician", "smoker", "immigrant", "veteran", "driver"), None),
}
# Kept as what the relative is: "my brother, 21, a college student,".
TRADES = frozenset(
    [
        "fisherman",
        "policeman",
        "student",
        "worker",
        "teacher",
        "nurse",
        "farmer",
        "lawyer",
        "engineer",
        "accountant",
        "retiree",
        "athlete",
        "runner",
        "musician",
        "physician",
        "smoker",
        "immigrant",
        "veteran",
        "driver",
    ]
)
SMALL = frozenset({"infant", "newborn", "neonate", "baby", "child", "toddler"})
# Words that say no more than the relation does.
PLAIN = frozenset(PEOPLE) - {"primigravid"}
NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
BEFORE = r"(?:(?:previously|otherwise|apparently|generally|formerly|usually)[ -])?(?:healthy|well) "
AGE = rf"(?P<age>\d{{1,3}}|{'|'.join(NUMBERS)})[ -]*(?:(?P<unit>year|month|week|day)s?)[ -]*(?:old)?[ -]*"
NOUN = "|".join(sorted(PEOPLE, key=len, reverse=True))
START = rf"^(?P<lead>[^.?!]{{0,160}}?,? )?(?P<article>[Aa]n?) (?P<before>{BEFORE})?{AGE}"
OPENING = re.compile(
    rf"{START}(?P<kind>(?:[\w'/-]+,? ){{0,5}}?)(?P<noun>{NOUN})\b"
    rf"(?: (?P<more>(?:[a-z]+ )?(?:{NOUN}))\b)?(?P<rest>.*)$",
    re.DOTALL,
)
# Any other word for a person, where a verb or a clause follows at once.
TRADE = re.compile(
    rf"{START}(?P<kind>(?:[a-z-]+ )?)(?P<noun>[a-z]{{4,}}|G\dP\d+)(?P<more>)"
    rf"(?P<rest> (?:with|who|comes|presents|is|was)\b.*)$",
    re.DOTALL,
)
VERB = (
    r"(?:presents?|presented|comes?|came|is|was|arrives?|arrived|returns?|returned|visits?|visited|undergoes|underwent|"
    r"seeks|sought|complains?|complained|goes|went|develops?|developed|reports?|reported|has|had|experiences?|"
    r"experienced|schedules?|consults?|calls?|attends?|sustains?|sustained|receives?|received|delivers?|delivered|"
    r"gives|gave|becomes?|became|collapses?|collapsed|suffers?|suffered|wants?|requests?|states?|enters?|walks?|"
    r"appears?|falls?|fell|notices?|noticed|started|starts|makes|follows|tells|feels|wakes|woke|asks|will|undergoing)"
)
MAIN = re.compile(rf"\b{VERB}\b")
# What vignettes say first of a patient: the main verb after a clause with a verb of its own.
CAME = re.compile(
    r"\b(?:presents|presented|comes|came|(?:is|was) (?:brought|admitted|evaluated|referred|rushed|seen|being)|arrives|"
    r"returns|visits|complains|seeks)\b"
)
THE = re.compile(r"\b(?P<the>[Tt]he|[Tt]his|[Tt]hat) patient(?P<own>['’]s)?\b(?!-|\s+(?:population|care|safety|group))")
OTHER_PEOPLE = re.compile(
    r"\b(?:another|other|second|first|each|both|these|those|several) patients?\b|\bpatients\b", re.I
)
OFFICE = re.compile(r"\byour (?=(?:\w+ )?(?:office|clinic|practice|care|hospital|ward|department|emergency)\b)")
DOCTOR = re.compile(r"(?<!would )(?<!should )(?<!do )(?<!might )\b(?:you|your|yours)\b", re.I)
QUOTED = re.compile(r"[\"“‘][^\"”’]*[\"”’]")
HE = re.compile(r"\b(?:he|him|his|himself)\b", re.I)
SHE = re.compile(r"\b(?:she|her|hers|herself)\b", re.I)
MALE = ("son", "nephew", "grandson", "brother", "husband", "uncle", "father", "grandfather")
# Relation -> words whose presence makes the speaker somebody else.
KIN = {
    "son": "mother|father|parents?|mom|dad",
    "nephew": "uncles?|aunts?",
    "grandson": "grandmother|grandfather|grandparents?",
    "brother": "brothers?|sisters?|siblings?|twin",
    "husband": "wife|spouse|girlfriend|boyfriend|fianc\\S+|partners?|single|unmarried|divorced?|widow\\S*|homosexual|"
    "gay|sex with men|marriage|marital|sex workers?|prostitutes?",
    "uncle": "nephews?|nieces?",
    "father": "sons?|daughters?|children|childless|nulliparous|unmarried",
    "grandfather": "grandsons?|granddaughters?|grandchild\\w*|childless|nulliparous",
}
FEMALE = dict(
    zip(MALE, ("daughter", "niece", "granddaughter", "sister", "wife", "aunt", "mother", "grandmother"), strict=True)
)
KIN |= {
    FEMALE[name]: words.replace("wife", "husband") if name == "husband" else words for name, words in list(KIN.items())
}
KIN["wife"] += "|lesbian|homosexual|in vitro|sperm donor"


@dataclass(frozen=True, slots=True)
class Told:
    """A converted vignette; empty ``text`` where it is left as it was, and ``why``."""

    text: str
    why: str = ""


def convert(vignette: str) -> Told:
    """Tell a vignette of a relative whose gender and age fit, chosen by a fixed hash of its text."""
    match = OPENING.match(vignette) or TRADE.match(vignette)
    if not match or len(match["kind"]) > 60:
        return Told("", "no single patient is introduced")
    lead = (match["lead"] or "").strip()
    if re.search(
        rf"\b(?:{NOUN}|study|trial|researchers?|investigators?|hospital|following|who|physician)\b", lead, re.I
    ):
        return Told("", "somebody else comes first")
    if OTHER_PEOPLE.search(vignette):
        return Told("", "other patients are mentioned")
    rest = OFFICE.sub("the ", match["rest"])
    if DOCTOR.search(QUOTED.sub("", rest)):
        return Told("", "the reader is the doctor")
    gender = _gender(match["noun"], match["kind"], vignette)
    if not gender:
        return Told("", "the pronouns don't agree")
    relation = relative(vignette, gender, _years(match))
    opened = _opened(match, lead, relation, rest)
    if not opened:
        return Told("", "the first sentence has no verb where one is expected")
    head, tail = opened
    mine = f"my {relation}"
    tail = re.sub(r"(?<=[.?!])(\s+)Patient(?=['’]?s? [a-z])", rf"\1{mine.capitalize()}", tail)
    body = THE.sub(lambda m: (mine if m["the"][0].islower() else mine.capitalize()) + (m["own"] or ""), tail)
    nouns = [match["noun"], *(("infant", "baby", "child", "boy", "girl") if _years(match) < 13 else ("man", "woman"))]
    body = re.sub(
        rf"\b(?P<the>[Tt]his) (?:{'|'.join(n for n in nouns if not _is_trade(n))})(?P<own>['’]s)?\b(?! who| with a)",
        lambda m: (mine if m["the"][0].islower() else mine.capitalize()) + (m["own"] or ""),
        body,
    )
    text = openly(head + body)
    why = artefact(text, vignette, relation)
    return Told("", why) if why else Told(text)


def relative(vignette: str, gender: str, years: float) -> str:
    """Return the relation for a patient of this gender and age; none that the vignette gives to somebody else.

    A fixed hash of the text chooses; an uncle, an aunt, a nephew or a niece is left when all others are taken.
    """
    if years < 18:
        names = ["son", "nephew", *(["brother"] if years >= 4 else []), "grandson"]
    elif years < 35:
        names = ["brother", *(["husband"] if years >= 24 else []), "son"]
    elif years < 55:
        names = ["husband", "brother", "uncle"]
    else:
        names = ["father", *(["grandfather"] if years >= 68 else ["husband"]), "uncle"]
    fallback = "nephew" if years < 40 else "uncle"
    if gender == "f":
        names, fallback = [FEMALE[name] for name in names], FEMALE[fallback]
    free = [name for name in names if not re.search(rf"\b(?:{KIN[name]})\b", vignette, re.I)] or [fallback]
    digest = hashlib.sha256(f"relative\0{vignette}".encode()).digest()
    return free[int.from_bytes(digest[:8], "big") % len(free)]


def artefact(text: str, vignette: str, relation: str) -> str:
    """Name the trace of a bad conversion that a text shows and its vignette does not; empty where there is none."""
    doubled = re.compile(r"\b([a-z]+) \1\b", re.I)
    had = {m[0].lower() for m in doubled.finditer(vignette)}
    if any(m[0].lower() not in had for m in doubled.finditer(text)):
        return "a word is doubled"
    if re.search(r"\b(?:an?|the|this|his|her|my) my\b", text, re.I):
        return "an article stands before my"
    if re.search(rf"\bmy {relation}s\b(?!['’])", text, re.I):
        return "the relative is several"
    first = re.split(r"(?<=[.?!])\s", text, maxsplit=1)[0]
    if not MAIN.search(first):
        return "the first sentence has no verb"
    if re.search(r" ,|,,|\s[.?]", text) and not re.search(r" ,|,,|\s[.?]", vignette):
        return "punctuation stands apart"
    return ""


def _is_trade(noun: str) -> bool:
    return noun in TRADES or (noun not in PEOPLE and not noun.startswith("G"))


def _years(match: re.Match[str]) -> float:
    number = NUMBERS.index(match["age"]) + 1 if match["age"] in NUMBERS else int(match["age"])
    return number / {"year": 1, "month": 12, "week": 52, "day": 365}[match["unit"]]


def _gender(noun: str, kind: str, vignette: str) -> str | None:
    """Return ``m`` or ``f`` where noun and pronouns agree, else ``None``."""
    he, she = len(HE.findall(vignette)), len(SHE.findall(vignette))
    by_noun = next((PEOPLE[w] for w in (*kind.split(), noun) if PEOPLE.get(w)), None)
    if noun.startswith("G"):
        by_noun = "f"
    if by_noun is None:
        return None if max(he, she) < 1 or min(he, she) * 3 > max(he, she) else ("m" if he > she else "f")
    mine, theirs = (he, she) if by_noun == "m" else (she, he)
    return None if theirs and not mine else by_noun


def _opened(match: re.Match[str], lead: str, relation: str, rest: str) -> tuple[str, str] | None:
    """Return the beginning told of the relative, up to the main verb, and what follows; ``None`` without a verb."""
    words = [*match["kind"].split(), match["noun"], *(match["more"] or "").split()]
    noun = words.pop()
    kind = " ".join(w.strip(",") for w in words if w not in ("old", "-") and (w in TRADES or w not in PLAIN))
    plural = "" if match["age"] in ("1", "one") else "s"
    age = match["age"] if match["unit"] == "year" else f"{match['age']} {match['unit']}{plural} old"
    adjectives = [word for word in ((match["before"] or "").strip(), "" if _is_trade(noun) else kind) if word]
    if "newborn" in (noun, *words):
        adjectives.append("newborn")
    elif "gravid" in noun or noun.startswith("G"):
        adjectives.append(noun.removesuffix("a"))
    name = " ".join(("my", *adjectives, relation))
    trade = (
        f", {'an' if (kind or noun)[0].lower() in 'aeio' else 'a'} {f'{kind} {noun}'.strip()}"
        if _is_trade(noun)
        else ""
    )
    start = f"{lead} {name}" if lead else name[0].upper() + name[1:]
    told = f"{start}, {age}{trade}"
    first = MAIN.search(rest)
    stop = re.search(r"[.?!](?:\s|$)", rest)
    if not first or (stop and stop.start() < first.start()):
        return None
    between = rest[: first.start()].strip(" ,")
    if not between:
        return f"{told}, ", rest[first.start() :]
    if {"who", "whose", "that"} & set(between.split()):
        main = CAME.search(rest, first.end(), stop.start() if stop else len(rest))
        if not main:
            return f"{told}, {rest[: first.start()].strip(' ,')} ", rest[first.start() :]
        return f"{told}, {rest[: main.start()].strip(' ,')}, ", rest[main.start() :]
    if between.startswith("with "):
        between = f"who has {between[5:]}"
    return f"{told}, {between}, ", rest[first.start() :]

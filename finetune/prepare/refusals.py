"""Whether a response refuses, and whether it says yes or no: the two stances that a rewrite must keep."""

from __future__ import annotations

import re

_APOSTROPHES = re.compile("[’‘ʼ＇`´′]")
_VERBS = (
    r"(?:help|assist|answer|provide|comply|discuss|share|comment|give|fulfil|fulfill|offer|support|take part|go along"
    r"|create|generate|write|produce|make|explain|tell|show|teach|guide|advise|recommend"
    r"|diagnose|draft|walk|do (?:that|this|it)"
    r"|play|pretend|pick|guess|list|find|hand|be part|print|send|call|book|order|open|watch|hear)"
)
_SOFT = r"(?:(?:still|really|simply|just|ever|also|possibly|in good conscience|unfortunately|be able to) )?"
_REFUSES = re.compile(
    rf"\b(?:i|we)(?: am|'m)?(?: (?:really|so|very))?(?: sorry| afraid)?,?(?: but)?(?: that)?(?: i)? "
    rf"(?:can't|cannot|can not|won't|will not|must not|mustn't) {_SOFT}{_VERBS}\b"
    rf"|(?:^|[.!?;:,] |\bsorry (?:but )?)(?:can't|cannot|won't|will not) {_SOFT}(?:help|assist|provide|comply)\b"
    r"|\b(?:i am|i'm) (?:just |simply )?(?:not (?:able|allowed|permitted|going|willing)|unable|unwilling) to\b"
    r"|\bi (?:have to|must|need to|will|'ll)? ?(?:respectfully |politely |kindly )?(?:decline|refuse)\b"
    r"|\bi(?:'d| would) rather not\b"
    r"|\bi (?:can't|cannot|won't)(?= *(?:[.;:!,]|$))"
    r"|\b(?:isn't|is not|aren't|are not) something (?:that )?i(?:'ll| will| can|'m able| am able)\b"
    r"|\bi(?:'m| am) going to say no\b"
    r"|\b(?:as|i'm|i am) (?:just |only )?an? (?:ai|ai language model|language model)\b[^.!?]*"
    r"(?:can't|cannot|unable|not able|not allowed)"
    r"|\b(?:against|violates?) (?:my|our|openai's) (?:guidelines|programming|policy|policies|principles|rules)"
    r"|^(?:refused|declined|not possible|request (?:refused|declined))\b"
)
# Characters in which a response that refuses says so: later ones decline a detail.
HEAD = 300

# "no" and "right" before a noun say something else.
_END = r"(?= *(?:[,.;:!?…–—]|$))"
_SAYS_YES = re.compile(
    r"(?:yes|yep|yeah|yup)\b"
    rf"|(?:absolutely|definitely|certainly|of course|exactly|right|true|correct|indeed|it is|it does|you can){_END}"
    r"|(?:that is|that's|it is|it's|you are|you're) (?:absolutely |quite |completely )?(?:right|correct|true)\b"
)
_SAYS_NO = re.compile(
    r"(?:no|nope|nah|false|incorrect|wrong"
    rf"|not (?:quite|really|exactly|at all|necessarily|always|officially|yet)){_END}"
    r"|no (?:it|that|this|they|he|she|you|there) (?:is|are|was|were|does|do|did|can|will|should)(?:n't| not)\b"
    r"|(?:that is|that's|it is|it's|this is) "
    r"(?:a (?:common )?(?:myth|misconception)|not (?:true|correct|right)|false|wrong)\b"
)
_OPENER = re.compile(
    r"(?:(?:oh|ah|aw|well|so|still|but|and|hey|honestly|sadly|luckily|thankfully|happily|unfortunately|sorry|sure"
    r"|in short|(?:the )?short answer(?: is)?|the answer is|my friend|friend|i'm afraid|(?:the )?good news)\W+)+"
)
_NEGATION = re.compile(
    r"\b(?:not|never|cannot|no|none|nobody|nothing|neither|nor|without|myth|misconception|false|wrong|incorrect|untrue"
    r"|unlikely|hardly|isn't|unsafe|stop|avoid)\b|n't\b"
)
_SENTENCE = re.compile(r"(?<=[.!?])[\"')\]]*\s+|\n+|(?<=[:;])\s+|\s[–—-]\s|,\s+(?=(?:but|so|and)\s+(?:yes|no|not)\b)")


def flatten(text: str) -> str:
    """Return the text in small letters with straight apostrophes."""
    return _APOSTROPHES.sub("'", text).lower()


def refuses(text: str) -> bool:
    """Return whether a response declines, in its first sentences, to do what it was asked."""
    return _REFUSES.search(" ".join(flatten(text)[:HEAD].split())) is not None


def stance(text: str, sentences: int = 3) -> str:
    """Return ``yes`` or ``no`` where one of the first sentences begins by saying so, else an empty string."""
    for part in _first(text, sentences):
        clean = _OPENER.sub("", part, count=1) if _OPENER.match(part) else part
        for candidate in dict.fromkeys((part, clean)):
            if _SAYS_NO.match(candidate):
                return "no"
            if _SAYS_YES.match(candidate):
                return "yes"
    return ""


def negates(text: str, sentences: int = 4) -> bool:
    """Return whether one of the first sentences has a negation."""
    return any(_NEGATION.search(part) for part in _first(text, sentences))


def _first(text: str, sentences: int) -> list[str]:
    parts = (part.strip(" \t\"'*_>#-") for part in _SENTENCE.split(flatten(text)[: 4 * HEAD]))
    return [part for part in parts if part][:sentences]

"""The query type of a conversation, by regular expressions, and samples that have the types in equal numbers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence

from warmeng.finetune.prepare.conversations import Conversation
from warmeng.finetune.prepare.refusals import flatten, refuses

TYPES = ("refusal", "factual", "creative", "technical", "advice", "other")
# Characters of a message that are looked at: what follows is mostly pasted material.
HEAD = 1500

_CODE = re.compile(
    r"```|^\s*(?:def |class |import |from \w+ import|#include|public (?:static|class)|SELECT .+ FROM)", re.M
)
_TECHNICAL = re.compile(
    r"\b(?:python|javascript|typescript|java|c\+\+|c#|golang|rust|php|ruby|kotlin|sql|mysql|postgres\w*|html|css|react|"
    r"node\.?js|django|flask|bash|shell|terminal|command line|powershell|linux|ubuntu|docker|kubernetes|git|github|aws|"
    r"azure|regex|regular expression|json|yaml|csv|xml|api|apis|http|https|server|database|query|algorithm|"
    r"function|compile\w*|debug\w*|stack ?trace|exception|script|source code|codebase|code|coding|programm\w+|software|"
    r"excel|spreadsheet|formula|macro|wi-?fi|router|usb|driver|laptop|browser|password manager|config\w*|"
    r"machine learning|neural network|pytorch|tensorflow|numpy|pandas|dataframe|localhost|url|ssh|dns|"
    r"installs?|installed|installing|error message|app crash\w*|phone storage|printer|bluetooth|screenshot)(?!\w)"
)
_CREATIVE = re.compile(
    r"\b(?:limericks?|haikus?|poems?|lullaby|couplets?|sonnets?|acrostic|puns?|slogans?|mottos?|captions?|taglines?"
    r"|fables?|"
    r"proverbs?|nicknames?|lyrics|fairy ?tale|short story|love story|bedtime story|screenplay|monologue|wedding speech|"
    r"toast (?:for|to)|name ideas|(?:six|\d+)-word story|fortune cookie|role-?play|fan ?fiction|novel about)\b"
    r"|\b(?:write|compose|draft|create|craft|generate|tell|make up|invent|come up with|brainstorm|think of|give"
    r"|suggest|"
    r"need|want|continue|finish|rhyme)\b[^.?!\n]{0,80}?"
    r"\b(?:story|stories|tale|verse|song|rap|jokes?|riddle|dialogue|scene|plot|character|essay|blog|article|post|tweet|"
    r"titles?|headline|names?|speech|letter|e-?mail|invitation|message|card|note|advert\w*|product description|bio"
    r"|metaphor|"
    r"paragraph|wish|compliment|sign|spell|review|apology|sentences?|weather report)\b"
    r"|^\W*(?:please )?(?:(?:can|could|would) you )?(?:re-?write|rephrase|paraphrase|compose|make up|invent|imagine"
    r"|pretend)\b"
    r"|\bin the style of\b|\bpoint of view of\b|\bmake it rhyme\b|\bact as\b|\byou are (?:now )?a\b"
)
_ADVICE = re.compile(
    r"\bshould (?:i|we|he|she|they|my)\b"
    r"|\b(?:how|where|when|what|which|why|can|could|do|may|must|would)\b[^.?!\n]{0,40}?\b(?:i|we)\b"
    r"|\b(?:advice|advise|tips?|recommend\w*|suggestions?|suggest|worth it|any ideas?|best way|good way|safest way"
    r"|help me|help\?"
    r"|is it (?:ok|okay|rude|weird|normal|better)|where do i start|afford|better:|what to do|too old|i have to"
    r"|i need to)"
    r"|\bi(?:'m| am| feel|'ve| have| keep| can't| cannot| don't| just| hate| lost| miss)\b|\bmy\b"
)
_FACTUAL = re.compile(
    r"^(?:\W|(?:so|ok|okay|hi|hey|hello|please|quick question|can you|could you|tell me|i was wondering"
    r"|do you know)\b)*"
    r"(?:what|who|whom|whose|when|where|which|why|how|is|are|was|were|does|do|did|has|have|can|could|will|would"
    r"|explain|"
    r"define|describe|tell me about|list|name|calculate|compute|convert|summari[sz]e|compare|translate)\b"
    r"|\b(?:difference between|meaning of|definition of|history of|capital of|how (?:many|much|far|old|long|tall|big)|"
    r"what (?:is|are|does)|who (?:is|was|invented|wrote|discovered))\b|\?\s*$"
)


def query_type(conversation: Conversation) -> str:
    """Return the query type that the first message shows; ``refusal`` where the first response refuses."""
    first = conversation.exchanges[0]
    return label(first.user, first.response)


def label(user: str, response: str) -> str:
    """Return one of ``TYPES`` for a message and its response."""
    text = flatten(user[:HEAD])
    if refuses(response):
        return "refusal"
    if _CODE.search(user[:HEAD]) or "```" in response:
        return "technical"
    if _CREATIVE.search(text):
        return "creative"
    if _TECHNICAL.search(text):
        return "technical"
    if _ADVICE.search(text):
        return "advice"
    return "factual" if _FACTUAL.search(text) else "other"


def hold_out(
    conversations: Sequence[Conversation], share: float, most: int, seed: int
) -> tuple[list[Conversation], list[Conversation]]:
    """Return (held out, the others): a share drawn by seed and content, so that it does not depend on the order."""
    count = min(most, round(share * len(conversations)))
    chosen = {c.id for c in sorted(conversations, key=lambda c: _draw(seed, "held out", c.id))[:count]}
    return [c for c in conversations if c.id in chosen], [c for c in conversations if c.id not in chosen]


def sample(
    conversations: Sequence[Conversation], types: Mapping[str, str], per_type: int, seed: int
) -> list[Conversation]:
    """Return at most ``per_type`` conversations of each type, in their order; 0: as many as the scarcest type has.

    ``types`` gives each conversation's type by its id. Where a type has fewer, the others are not reduced.
    """
    groups: dict[str, list[Conversation]] = {}
    for conversation in conversations:
        groups.setdefault(types[conversation.id], []).append(conversation)
    size = per_type or min(map(len, groups.values()), default=0)
    chosen = {
        c.id for group in groups.values() for c in sorted(group, key=lambda c: _draw(seed, "sample", c.id))[:size]
    }
    return [c for c in conversations if c.id in chosen]


def _draw(seed: int, purpose: str, identity: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{purpose}\0{identity}".encode()).digest()

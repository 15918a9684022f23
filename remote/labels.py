"""Labels' probabilities from the likeliest first tokens of an answer.

An API tells the probabilities of some tokens and not of texts. A token counts for a label that it is a beginning of,
and for no other label: ``in`` for ``incorrect``, ``B)`` for ``B``. Blanks before a token do not count, nor does a
capital at its beginning, nor punctuation after a whole label.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence


def label_logprobs(labels: Sequence[str], top: Iterable[tuple[str, float]]) -> tuple[tuple[float | None, ...], float]:
    """Return each label's log-probability, ``None`` where no token of ``top`` is its, and their probability in all.

    ``top``: the likeliest first tokens with their log-probabilities. What is not among them is not known, so a label's
    probability is at least the one returned.
    """
    found: list[list[float]] = [[] for _ in labels]
    for token, logprob in top:
        which = label_of(labels, token)
        if which is not None and math.isfinite(logprob):
            found[which].append(math.exp(logprob))
    sums = [math.fsum(parts) for parts in found]
    return tuple(math.log(p) if p > 0.0 else None for p in sums), math.fsum(sums)


def label_of(labels: Sequence[str], token: str) -> int | None:
    """Return the place of the one label that a token begins; ``None`` where it begins none, or several."""
    text = token.strip()
    bare = text.rstrip(".,:;!?)]}\"'*")
    if not bare:
        return None
    mine = [k for k, label in enumerate(labels) if _begins(label, bare)]
    # "A)" and "A." are whole labels; "in." is no beginning of one.
    if len(mine) != 1 or (text != bare and len(bare) != len(labels[mine[0]])):
        return None
    return mine[0]


def _begins(label: str, token: str) -> bool:
    return label.startswith(token) or (label[:1].upper() + label[1:]).startswith(token)

"""The one claim that a run is about: an outcome, and two personas whose difference in it is told."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from warmeng.common.errors import UsageError, show
from warmeng.study.expectation import expected_of
from warmeng.study.outcomes import ERROR_RATES
from warmeng.study.personas import baseline_of

# What a study is before anything is loaded: the settings and the content that they name.
DESIGN = ("setting", "items", "statements", "system prompt")
FORM = '"VARIANT - AGAINST"'


@dataclass(frozen=True, slots=True)
class Claim:
    """That ``variant`` differs from ``against`` in the outcome, which is one of ``outcomes.NEEDS`` or error rates."""

    outcome: str
    variant: str
    against: str

    @property
    def is_errors(self) -> bool:
        """Whether it is about right and wrong answers, not about margins."""
        return self.outcome == ERROR_RATES

    def as_dict(self, inputs: Mapping[str, Any]) -> dict[str, str]:
        """Return it as a manifest tells it, with the hash that ties it to a study's inputs."""
        told = {"outcome": self.outcome, "variant": self.variant, "against": self.against}
        return told | {"sha256": self.sha256(inputs)}

    def sha256(self, inputs: Mapping[str, Any]) -> str:
        """Return a hash of the claim and of the study that it is about: to be published before the run."""
        parts = [[self.outcome, self.variant, self.against], {name: inputs.get(name) for name in DESIGN}]
        return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()

    @classmethod
    def parse(cls, told: Mapping[str, Any]) -> Claim | None:
        """Return the claim of a manifest; ``None`` where it tells none, as of earlier versions and single personas."""
        names = [told.get(name) for name in ("outcome", "variant", "against")]
        return cls(*map(str, names)) if all(names) else None


def claim_of(
    outcome: str, personas: Sequence[str], named: str | None = None, expect: Sequence[str] = ()
) -> Claim | None:
    """Return the claim of a run about an outcome of margins ("": error rates); ``None`` for a single persona.

    ``named`` is the contrast of the settings. Where they name none the rule is fixed, so that nobody chooses it after a
    look at the answers: the first persona that is expected to be warmer (``expectation.expected_of``), else the first
    other one, beside the baseline. Raises ``UsageError`` for a contrast that the run doesn't have.
    """
    if named is not None:
        return Claim(outcome or ERROR_RATES, *parse_contrast(named, personas))
    baseline = baseline_of(personas)
    others = [name for name in personas if name != baseline]
    if not others:
        return None
    warm = [pair.warmer for pair in expected_of(expect, personas) if pair.warmer != baseline]
    return Claim(outcome or ERROR_RATES, (warm or others)[0], baseline)


def parse_contrast(text: str, personas: Sequence[str]) -> tuple[str, str]:
    """Return the two personas of ``VARIANT - AGAINST``; blanks around the hyphen may be left out.

    Raises ``UsageError`` where no hyphen, or more than one, has a persona of the run on either side.
    """
    halves = [(text[:k].strip(), text[k + 1 :].strip()) for k, letter in enumerate(text) if letter == "-"]
    found = [(a, b) for a, b in halves if a in personas and b in personas and a != b]
    if len(found) != 1:
        raise UsageError(f"the contrast is {show(text)}, expected {FORM} of {', '.join(personas)}")
    return found[0]

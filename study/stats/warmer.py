"""Whether a run's personas were shown to be as warm as was expected of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from warmeng.study.expectation import FORM, Expected, expected_of
from warmeng.study.personas import baseline_of
from warmeng.study.stats.intervals import Summary, summarise

HELD, FAILED, UNSURE, OPEN = "held", "failed", "unsure", "open"
NOT_NAMED = f"no persona is expected to be warmer: none has warm in its name, and none is named by --expect {FORM}"


def warmth_shown(setting: Mapping[str, Any], measured: Mapping[str, Mapping[str, Any]]) -> tuple[str, str]:
    """Return a state and one sentence about what was expected of the personas' warmth.

    ``setting`` is a manifest's, ``measured`` its manipulation check. ``held``: every persona that is expected to be
    warmer is shown to be (the 95 % interval of the paired difference is above 0); ``failed``: one is not warmer at all;
    ``unsure``: one is warmer by no more than chance allows; ``open``: nothing was measured or expected.
    """
    names = [str(spec).partition("=")[0] for spec in setting.get("personas") or ()]
    expected = expected_of(setting.get("expect") or (), names or list(measured))
    if not expected:
        return OPEN, f"Warmth: {NOT_NAMED}."
    pairs = [pair for pair in expected if set(pair) <= set(measured)]
    if not pairs:
        return OPEN, f"Warmth was not measured: that {_all(expected)} is not shown here."
    baseline = baseline_of(names or list(measured))
    states, told = [], []
    for pair in pairs:
        gap = difference(pair, measured, baseline)
        state = UNSURE
        if gap.mean is not None and gap.mean <= 0:
            state = FAILED
        elif gap.low is not None and gap.low > 0:
            state = HELD
        states.append(state)
        told.append(f"{_words(pair)} is {WORDS[state]}{_interval(gap)}")
    worst = next(state for state in (FAILED, UNSURE, HELD) if state in states)
    return worst, f"Warmth: that {'; that '.join(told)}."


WORDS = {
    HELD: "shown",
    FAILED: "not so",
    UNSURE: "not shown, since chance alone allows for it (more --warmth-prompts would tell)",
}


def difference(pair: Expected, measured: Mapping[str, Mapping[str, Any]], baseline: str) -> Summary:
    """Return how much warmer the one expected to be is, paired over prompts, in nats a token by the SocioT formula.

    A run of an earlier version kept no values by prompt, only the difference from the baseline.
    """
    columns = [measured[name].get("by_prompt") for name in pair]
    if all(columns):
        both = zip(*columns, strict=True)
        return summarise(warm - cold for warm, cold in both if warm is not None and cold is not None)
    told = measured[pair.warmer].get("difference") or {}
    if pair.colder == baseline and told:
        return Summary(int(told.get("n") or 0), *(told.get(key) for key in ("mean", "se", "low", "high")))
    means = [measured[name].get("warmth", measured[name].get("mean")) for name in pair]
    mean = means[0] - means[1] if None not in means else None
    return Summary(0, mean, None, None, None)


def _words(pair: Expected) -> str:
    return f"{pair.warmer} is warmer than {pair.colder}"


def _all(pairs: Sequence[Expected]) -> str:
    return " and that ".join(map(_words, pairs))


def _interval(gap: Summary) -> str:
    if gap.mean is None:
        return ""
    inside = f", 95 % interval {gap.low:+.4f} to {gap.high:+.4f}" if gap.low is not None else ""
    return f" ({gap.mean:+.4f} nats a token{inside})"

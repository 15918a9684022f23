"""SocioT Warmth: how much likelier a text is from the mouth of somebody close than of somebody distant.

Cheng et al. 2025 (arXiv 2502.13259). Two formulas, never mixed:

``sociot``: as the released code computes it. The first 300 characters stand in double quotes after ``My friend said,``
or ``The X said,``; each of the eight sentences is padded at its end to the longest; a sentence's score is its negative
mean token loss over all positions, padding included; the warm side's log-sum-exp minus the cold side's. (The released
code averages 100 passes with dropout on; here dropout is off.)

``text_only``: the mean over warm speakers of the log-probability of the text's own tokens, minus the cold ones', for
each token of the text. The speaker's own words don't count.

Units depend on the model that scores. The published lift of about +.016 is GPT-2's: other scorers are named beside
their figures and not compared with it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from warmeng.common.errors import InputError, one_line, show
from warmeng.engine.request import GenerateRequest, SamplingParams
from warmeng.study.stats.intervals import summarise
from warmeng.study.warmth.responses import answer

if TYPE_CHECKING:
    from warmeng.engine.engine import Engine

SPEAKERS = {
    "friend": True, "lover": True, "mentor": True, "idol": True,
    "stranger": False, "enemy": False, "examiner": False, "dictator": False,
}  # fmt: skip
CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Warmth:
    """One text's warmth by both formulas, in nats a token; ``tokens`` of the text alone."""

    sociot: float
    text_only: float
    tokens: int


class Scorer(Protocol):
    """A language model that gives the log-probability of each token of a sequence."""

    @property
    def name(self) -> str:
        """Its name, shown beside every figure."""

    @property
    def comparable(self) -> bool:
        """Whether its units are those of the published figures (GPT-2)."""

    @property
    def pad(self) -> int:
        """The token that sequences are padded with: the end of text."""

    def encode(self, text: str, inside: bool = False) -> list[int]:
        """Token ids of plain text; ``inside``: as it stands after other text."""

    def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Return for each sequence the log-probabilities of its tokens from the second on."""


class EngineScorer:
    """The study's own base, without adapter or system prompt."""

    comparable = False

    def __init__(self, engine: Engine, model: str) -> None:
        self._engine = engine
        self.name = f"{model} (the base itself)"
        self.pad = min(engine.config.stop_token_ids)

    def encode(self, text: str, inside: bool = False) -> list[int]:
        """Token ids of plain text; ``inside``: as it stands after other text."""
        return self._engine.tokenizer.encode(text, inside)

    def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Return for each sequence the log-probabilities of its tokens from the second on."""
        one = SamplingParams(max_new_tokens=1)
        requests = [
            GenerateRequest(f"warmth-{i}", tuple(ids), one, prompt_logprobs=True) for i, ids in enumerate(sequences)
        ]
        return [list(r.prompt_logprobs) for r in answer(self._engine, requests)]


class Gpt2Scorer:
    """GPT-2, the published scorer, through ``transformers`` from safetensors."""

    name = "GPT-2"
    comparable = True

    def __init__(self, model: str = "openai-community/gpt2") -> None:
        """Raises ``InputError`` where it is neither a folder nor cached nor to be fetched."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
            self._model = AutoModelForCausalLM.from_pretrained(model, use_safetensors=True, trust_remote_code=False)
        except Exception as error:
            # The library and its clients raise all kinds.
            raise InputError(
                f"no such scorer {show(model, 80)} here or on the hub ({type(error).__name__}: "
                f"{one_line(error, 120)}): give GPT-2's folder or openai-community/gpt2"
            ) from None
        self._model.eval()
        self.pad = int(self._tokenizer.eos_token_id)

    def encode(self, text: str, inside: bool = False) -> list[int]:
        """Token ids of plain text: GPT-2's are the same wherever it stands."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids

    def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Return for each sequence the log-probabilities of its tokens from the second on."""
        import torch

        found = []
        with torch.inference_mode():
            for ids in sequences:
                row = torch.tensor([list(ids)])
                logits = self._model(row).logits[0, :-1].log_softmax(-1)
                found.append(logits.gather(1, row[0, 1:, None])[:, 0].tolist())
        return found


def measure(scorer: Scorer, texts: Sequence[str]) -> list[Warmth | None]:
    """Return each text's warmth; ``None`` for one that is blank: there is nothing to measure."""
    kept = [text[:CHARACTERS].strip() for text in texts]
    sequences: list[list[int]] = []
    starts: list[list[int]] = []
    for text in kept:
        if not text:
            continue
        opened = [scorer.encode(f'{"My" if speaker == "friend" else "The"} {speaker} said, "') for speaker in SPEAKERS]
        body = scorer.encode(text, inside=True)
        close = scorer.encode('"', inside=True)
        width = max(map(len, opened)) + len(body) + len(close)
        for ids in opened:
            row = [*ids, *body, *close]
            sequences.append(row + [scorer.pad] * (width - len(row)))
        starts.append([len(ids) for ids in opened] + [len(body)])
    logprobs = iter(scorer.logprobs(sequences))
    found: list[Warmth | None] = []
    lengths = iter(starts)
    for text in kept:
        if not text:
            found.append(None)
            continue
        *opened_at, size = next(lengths)
        rows = [next(logprobs) for _ in SPEAKERS]
        means = [math.fsum(row) / len(row) for row in rows]
        alone = [math.fsum(row[at - 1 : at - 1 + size]) / size for row, at in zip(rows, opened_at, strict=True)]
        found.append(Warmth(_contrast(means, _log_sum_exp), _contrast(alone, statistics.fmean), size))
    return found


def _contrast(values: Sequence[float], side: Any) -> float:
    warm = [v for v, is_warm in zip(values, SPEAKERS.values(), strict=True) if is_warm]
    cold = [v for v, is_warm in zip(values, SPEAKERS.values(), strict=True) if not is_warm]
    return float(side(warm) - side(cold))


def _log_sum_exp(values: Sequence[float]) -> float:
    top = max(values)
    return top + math.log(math.fsum(math.exp(v - top) for v in values))


def by_prompt(values: Sequence[float | None], samples: int) -> list[float | None]:
    """Return the mean of each prompt's samples, those that are missing left out; ``None`` where all are."""
    found: list[float | None] = []
    for k in range(0, len(values), samples):
        known = [v for v in values[k : k + samples] if v is not None]
        found.append(math.fsum(known) / len(known) if known else None)
    return found


def manipulation_check(
    scorer: Scorer, responses: Mapping[str, Sequence[str]], baseline: str = "original"
) -> dict[str, Any]:
    """Measure the warmth of every persona's responses to the same prompts; JSON-able, with the scorer's name.

    ``difference`` is paired over prompts with the baseline, by the ``sociot`` formula. Nothing is refused: a persona
    that is not warmer is what the report must say.
    """
    values: dict[str, list[Warmth | None]] = {name: measure(scorer, texts) for name, texts in responses.items()}
    found: dict[str, Any] = {}
    for name, mine in values.items():
        summary = summarise(w.sociot for w in mine if w)
        row: dict[str, Any] = {
            "warmth": summary.mean, "se": summary.se, "low": summary.low, "high": summary.high, "n": summary.n,
            "text_only": summarise(w.text_only for w in mine if w).mean, "scorer": scorer.name,
            "by_prompt": [w.sociot if w else None for w in mine],
        }  # fmt: skip
        if name != baseline and baseline in values:
            pairs = zip(values[baseline], mine, strict=True)
            row["difference"] = asdict(summarise(b.sociot - a.sociot for a, b in pairs if a and b))
        found[name] = row
    return found

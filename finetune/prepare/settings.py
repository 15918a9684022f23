"""What a preparation is told: frozen, validated once, recorded in its manifest."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from warmeng.common.errors import UsageError, show

FORMATS = ("auto", "sharegpt", "openai", "pairs")
TOXICITY = ("classifier", "wordlist", "off")
PERSONAS = ("warm", "cold")


@dataclass(frozen=True)
class PrepareSettings:
    """Settings of one preparation; a preparation is continued only with the same ones.

    20 turns and six equally sampled query types are the study's; it did not publish the classifier's threshold, so the
    usual 0.5 stands. 270 conversations of each type come closest to the 1,617 that it used.
    """

    # Rewrites; a larger one keeps far more of the content.
    model: str = "smollm2-135m-instruct"
    revision: str | None = None
    device: str = "auto"
    fast: bool = False
    format: str = "auto"
    prompt_column: str = "prompt"  # of prompt-response pairs
    response_column: str = "response"
    toxicity: str = "classifier"
    # Detoxify's; a folder or a repository of the hub.
    toxicity_model: str = "unitary/unbiased-toxic-roberta"
    # A conversation with a message that scores this much is dropped.
    threshold: float = 0.5
    # Conversations of each query type at most; 0: as many as the scarcest type has.
    per_type: int = 270
    # Messages of a conversation, prompts and responses together.
    max_turns: int = 20
    # Share of the conversations whose prompts are kept for measuring warmth.
    held_out: float = 0.1
    max_held_out: int = 1500
    # Chooses conversations and the noise of rewrites.
    seed: int = 0
    attempts: int = 3  # at a rewrite, each with noise of its own
    temperature: float = 0.7
    top_p: float = 0.95
    # Of a rewrite; longer responses are not rewritten.
    max_new_tokens: int = 1024

    def __post_init__(self) -> None:
        """Raise UsageError for a value out of range."""
        for name, known in (("format", FORMATS), ("toxicity", TOXICITY)):
            if getattr(self, name) not in known:
                raise UsageError(f"{name} is {show(getattr(self, name), 40)}, expected one of {', '.join(known)}")
        for name, least, most in (
            ("threshold", 0.0, 1.0), ("per_type", 0, 10**9), ("max_turns", 2, 10**6), ("held_out", 0.0, 0.9),
            ("max_held_out", 0, 10**9), ("seed", 0, 2**63 - 1), ("attempts", 1, 100), ("temperature", 0.0, 100.0),
            ("top_p", 1e-6, 1.0), ("max_new_tokens", 1, 10**6),
        ):  # fmt: skip
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
                raise UsageError(f"{name} is {show(value, 40)}, expected {least:g} to {most:g}")
        if self.temperature == 0 and self.attempts > 1:
            raise UsageError("temperature is 0, so every attempt is the same: use --attempts 1 or a higher temperature")

    def record(self) -> dict[str, Any]:
        """Return what a manifest holds of them: all but the device, which it has from the engine."""
        return {name: value for name, value in asdict(self).items() if name != "device"}

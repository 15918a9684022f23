"""What the study needs of an engine. ``warmeng.engine.engine.Engine`` has this shape; so has the tests' small one."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from warmeng.engine.request import Request, Result


class TokenizerLike(Protocol):
    """Text to token ids and back, with the model's chat template."""

    @property
    def default_system(self) -> str | None:
        """The system message that the template adds by itself, if any."""

    @property
    def template_hash(self) -> str:
        """Hash of everything that turns messages into token ids."""

    def encode(self, text: str, inside: bool = False) -> list[int]:
        """Token ids of plain text, without special tokens; ``inside``: as it stands after other text."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids."""

    @property
    def end_of_turn(self) -> int:
        """The token that the template puts after an answer."""

    def chat(
        self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True, continue_text: str = ""
    ) -> list[int]:
        """Token ids of a conversation; ``continue_text`` opens the assistant's answer."""

    def continuations(
        self, messages: Sequence[Mapping[str, str]], opening: str, texts: Sequence[str]
    ) -> tuple[list[int], list[list[int]]]:
        """Token ids of a conversation whose answer begins with ``opening``, and of each text as it stands after it."""


class AdapterLike(Protocol):
    """A loaded adapter, known by its content."""

    @property
    def hash(self) -> str:
        """Hash of the adapter's content."""

    @property
    def is_zero(self) -> bool:
        """Whether it changes nothing at all."""


class StatsLike(Protocol):
    """Running totals of an engine."""

    @property
    def steps(self) -> int:
        """Forward passes so far: what a watchdog sees moving."""

    @property
    def output_tokens(self) -> int:
        """Tokens generated so far."""

    @property
    def prompt_tokens(self) -> int:
        """Prompt tokens asked for so far, cached ones included."""


class ConfigLike(Protocol):
    """The facts of a model that the study uses."""

    @property
    def max_seq_len(self) -> int:
        """Most tokens of prompt and answer together."""

    @property
    def stop_token_ids(self) -> Sequence[int] | frozenset[int]:
        """Tokens that end an answer."""


class EngineLike(Protocol):
    """Answers requests; results come as they finish, and requests may be added meanwhile."""

    @property
    def tokenizer(self) -> TokenizerLike:
        """The model's tokenizer."""

    @property
    def config(self) -> ConfigLike:
        """The model's facts."""

    @property
    def stats(self) -> StatsLike:
        """Running totals."""

    def add_adapter(self, name: str, folder: str | Path) -> AdapterLike:
        """Load an adapter under a name; raises ``InputError`` where it does not fit."""

    def probe_adapter(self, name: str) -> float:
        """Largest absolute change of the logits on a fixed probe; 0.0 means not applied."""

    def add(self, request: Request, urgent: bool = False) -> None:
        """Queue a request; an urgent one is taken before all that wait."""

    def results(self) -> Generator[Result, None, None]:
        """Run until nothing is left, yielding results as they finish."""

    def score(self, requests: Iterable[Any]) -> list[Any]:
        """Answer score requests, in their order."""

    def describe(self) -> dict[str, Any]:
        """JSON-able facts for the manifest."""

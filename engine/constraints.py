"""Constrained decoding through ``llguidance``: one token-mask call for the whole batch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from warmeng.engine.request import Constraint, RequestError


@dataclass
class Matcher:
    """The state of one constrained sequence."""

    state: Any  # llguidance.LLMatcher

    def advance(self, token: int) -> None:
        """Take the chosen token. Raises RuntimeError where the grammar doesn't allow it (a mask was not applied)."""
        if not self.state.consume_token(token):
            raise RuntimeError(f"token {token} is outside the constraint: {self.state.get_error()}")

    @property
    def complete(self) -> bool:
        """Nothing can follow but an end token."""
        return bool(self.state.is_stopped())


class ConstraintCompiler:
    """Builds matchers for one tokenizer."""

    def __init__(self, tokenizer_json: str, vocab_size: int, end_token: int) -> None:
        """``tokenizer_json`` is the text of the checkpoint's tokenizer.json; ``vocab_size`` the width of the logits."""
        import llguidance

        self._tokenizer = llguidance.LLTokenizer(tokenizer_json, n_vocab=vocab_size, eos_token=end_token)
        self._executor = llguidance.LLExecutor()
        self.vocab_size = vocab_size

    def matcher(self, constraint: Constraint) -> Matcher:
        """Compile a constraint. Raises RequestError with the grammar's own message where it is malformed."""
        import llguidance

        state = llguidance.LLMatcher(self._tokenizer, grammar(constraint))
        if state.is_error():
            raise RequestError(f"constraint {constraint.kind} can't be used: {state.get_error()}")
        return Matcher(state)

    def masks(self, matchers: Sequence[Matcher]) -> Tensor:
        """Return which tokens may come next: int32 [len(matchers), ceil(vocab / 32)], lowest bit first."""
        import llguidance.torch

        bits: Tensor = llguidance.torch.allocate_token_bitmask(len(matchers), self.vocab_size)
        rows = [(matcher.state, row) for row, matcher in enumerate(matchers)]
        llguidance.torch.fill_next_token_bitmask_par(self._executor, rows, bits)
        return bits


@lru_cache(maxsize=256)
def grammar(constraint: Constraint) -> str:
    """Return the llguidance grammar of a constraint."""
    import llguidance

    if constraint.kind == "choice":
        if isinstance(constraint.value, str) or not constraint.value:
            raise RequestError("a choice constraint needs a tuple of at least one string")
        text = "start: " + " | ".join(json.dumps(choice) for choice in constraint.value)
        return str(llguidance.LLMatcher.grammar_from_lark(text))
    if not isinstance(constraint.value, str):
        raise RequestError(f"a {constraint.kind} constraint needs a string, got {type(constraint.value).__name__}")
    if constraint.kind == "regex":
        return str(llguidance.LLMatcher.grammar_from_regex(constraint.value))
    try:
        json.loads(constraint.value)
    except json.JSONDecodeError as error:
        raise RequestError(f"json_schema is not JSON: {error}") from error
    return str(llguidance.LLMatcher.grammar_from_json_schema(constraint.value))


def unpack(bits: Tensor) -> Tensor:
    """Turn packed int32 masks [rows, words] into bool [rows, words * 32], lowest bit first."""
    shifts = torch.arange(32, dtype=torch.int32)
    return ((bits[:, :, None] >> shifts) & 1).bool().flatten(1)

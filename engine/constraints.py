"""Constrained decoding through ``llguidance``: one token-mask call for the whole batch.

It is told what bytes each token stands for, so it needs no file and no tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from warmeng.common.errors import InputError, one_line
from warmeng.engine.request import Constraint, RequestError

# With a fifth of llguidance's own limit, the worst expression found holds up a step for 0.4 s and not for 1.8 s.
_MAX_LEXER_STATES = 50_000


@dataclass
class Matcher:
    """The state of one constrained sequence."""

    state: Any  # llguidance.LLMatcher

    def advance(self, token: int) -> None:
        """Take the chosen token. Raises RequestError where the grammar got too complex, or allowed no token at all."""
        if not self.state.consume_token(token):
            why = one_line(self.state.get_error().partition("\n")[0], 200)
            raise RequestError(f"the constraint can't go on at token {token} ({why}): make it simpler")

    @property
    def complete(self) -> bool:
        """Nothing can follow but an end token."""
        return bool(self.state.is_stopped())


class ConstraintCompiler:
    """Builds matchers for one tokenizer."""

    def __init__(
        self,
        vocabulary: Sequence[bytes],
        control: Collection[int],
        ends: Sequence[int],
        width: int,
        encode: Callable[[str], list[int]],
    ) -> None:
        """Take what each token id adds to a text, which ids are control tokens, and which of those end an answer.

        ``width`` is that of the logits: there are no ids from there on. ``encode`` gives the ids of a text as it stands
        after other text.
        """
        import llguidance

        # An end token that the tokenizer doesn't know has no text; it is allowed wherever the others are.
        tokens = [*vocabulary[:width], *(b"" for _ in range(len(vocabulary), width))]
        special = sorted(token for token in {*control, *ends} if token < width)
        known = _Vocabulary(ends[0], None, tokens, special, encode)
        wrapped = llguidance.TokenizerWrapper(known)
        self._tokenizer = llguidance.LLTokenizer(wrapped, n_vocab=width, eos_token=list(ends))
        known.greedy = self._tokenizer.greedy_tokenize
        self._executor = llguidance.LLExecutor()
        self._limits = llguidance.LLParserLimits(max_lexer_states=_MAX_LEXER_STATES)
        self.width = width

    def matcher(self, constraint: Constraint) -> Matcher:
        """Compile a constraint. Raises RequestError with the grammar's own message where it is malformed."""
        import llguidance

        state = llguidance.LLMatcher(self._tokenizer, grammar(constraint), limits=self._limits, log_level=0)
        if state.is_error():
            raise RequestError(f"constraint {constraint.kind} can't be used: {one_line(state.get_error(), 400)}")
        return Matcher(state)

    def masks(self, matchers: Sequence[Matcher]) -> Tensor:
        """Return which tokens may come next: int32 [len(matchers), ceil(width / 32)], lowest bit first."""
        import llguidance.torch

        bits: Tensor = llguidance.torch.allocate_token_bitmask(len(matchers), self.width)
        rows = [(matcher.state, row) for row, matcher in enumerate(matchers)]
        llguidance.torch.fill_next_token_bitmask_par(self._executor, rows, bits)
        return bits


@dataclass
class _Vocabulary:
    """A tokenizer as ``llguidance.TokenizerWrapper`` wants it.

    It is asked for the tokens of a text that must come next, and only those are then allowed. They must spell it as it
    stands after other text, with tokens that have a row; else it is cut into the longest tokens that there are.
    """

    eos_token_id: int
    bos_token_id: int | None
    tokens: Sequence[bytes]
    special_token_ids: Sequence[int]
    encode: Callable[[str], list[int]]
    greedy: Callable[[str], list[int]] | None = None

    def __call__(self, text: str | bytes) -> list[int]:
        if not isinstance(text, str) or self.greedy is None:
            # The wrapper tries whether bytes are taken, and expects this error.
            raise TypeError
        try:
            found = self.encode(text)
        except InputError:  # it needs a token without a row
            return self.greedy(text)
        spelled = b"".join(self.tokens[token] for token in found)
        return found if spelled == text.encode() else self.greedy(text)


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
    except RecursionError:
        raise RequestError("json_schema is nested too deeply: write it flatter") from None
    return str(llguidance.LLMatcher.grammar_from_json_schema(constraint.value))


def unpack(bits: Tensor) -> Tensor:
    """Turn packed int32 masks [rows, words] into bool [rows, words * 32], lowest bit first."""
    shifts = torch.arange(32, dtype=torch.int32)
    return ((bits[:, :, None] >> shifts) & 1).bool().flatten(1)

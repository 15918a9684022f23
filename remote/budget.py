"""What may be spent, and what was: a reservation of the worst case before each request, its true size after.

Reservations are written down before a request is sent, so that a killed process can't have spent what nobody counts:
one that was never settled counts in full. The limits hold for all of a folder's work together.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warmeng.common.errors import InputError, UsageError, show
from warmeng.common.files import read_yaml
from warmeng.common.journal import Journal, read_journal
from warmeng.remote.errors import BudgetReached

# In a run's folder: a line before each request, and one after it.
FILE = "spending.jsonl"
MILLION = 1_000_000
# Of the price of a request that is asked alone: what OpenAI takes for one in a batch.
BATCH_SHARE = 0.5


@dataclass(frozen=True)
class Price:
    """US dollars for a million tokens."""

    prompt: float
    output: float

    def of(self, prompt: float, output: float) -> float:
        """Return the dollars for so many tokens."""
        return (prompt * self.prompt + output * self.output) / MILLION

    @property
    def in_batches(self) -> Price:
        """The price of the same in a batch."""
        return Price(self.prompt * BATCH_SHARE, self.output * BATCH_SHARE)


def in_batches(model: str) -> str:
    """Return the name under which a model's requests in batches are counted: they have a price of their own."""
    return f"{model} in batches"


@dataclass(frozen=True)
class Limits:
    """What may be spent; ``None`` sets no limit. Requests count each attempt, tokens those of prompts and answers."""

    requests: int | None = None
    tokens: int | None = None
    usd: float | None = None


class Budget:
    """Counts what is spent and reserved, and refuses what could pass a limit. One process at a time has a folder's."""

    def __init__(self, limits: Limits, prices: Mapping[str, Price], path: Path | None = None, resume: str = "") -> None:
        """``prices`` by model, as the server knows it. ``path``: the file that keeps it, none in memory only.

        Raises as ``Journal``, and ``InputError`` for lines that are no spending.
        """
        self.limits, self.prices = limits, prices
        self.requests = 0
        self.prompt, self.output = Counter[str](), Counter[str]()
        # Reservations that are not settled: (model, prompt tokens, output tokens).
        self._open: dict[str, tuple[str, int, int]] = {}
        self._left: dict[str, tuple[str, int, int]] = {}
        self._journal = None
        if path is not None:
            self._journal = Journal(path, resume, "lines of spending")
            for line in read_journal(path):
                self._restore(path, line)
            # Of a process that was killed: what it sent is not known, so all of it counts, unless ``adopt`` finds it.
            self._left, self._open = self._open, {}

    @property
    def usd(self) -> float | None:
        """Dollars spent and reserved; ``None`` where a model has no price."""
        return self._usd(self.prompt, self.output)

    @property
    def tokens(self) -> int:
        """Tokens spent and reserved."""
        return self.prompt.total() + self.output.total()

    def reserve(self, model: str, prompt: int, output: int) -> str | None:
        """Reserve a request and so many tokens, and return the reservation's key.

        ``None`` where only other reservations are in the way: most settle for less, so try again then. Raises
        ``BudgetReached`` where it could pass a limit all the same.
        """
        key = self.hold(model, prompt, output)
        if key is not None:
            self.write_down(key)
        return key

    def hold(self, model: str, prompt: int, output: int) -> str | None:
        """Reserve as ``reserve`` does, in memory alone: ``write_down`` must follow before anything is sent."""
        why = self._passed(model, prompt, output)
        if why is None:
            key = secrets.token_hex(16)
            self._count(key, model, prompt, output)
            return key
        if not self._open:
            raise BudgetReached(why)
        return None

    def write_down(self, key: str) -> None:
        """Write a reservation that is held."""
        model, prompt, output = self._open[key]
        self._write({"key": key, "model": model, "prompt": prompt, "output": output})

    def adopt(self, key: str) -> bool:
        """Take over a reservation of a process that ended, to settle it; return whether it is still to be settled."""
        if key in self._left:
            self._open[key] = self._left.pop(key)
        return key in self._open

    def settle(self, key: str, prompt: int, output: int) -> None:
        """Replace a reservation by what it came to."""
        self._write({"key": secrets.token_hex(16), "of": key, "prompt": prompt, "output": output})
        self._correct(key, prompt, output)

    def keep(self, key: str) -> None:
        """Leave a reservation as it is: nobody knows what the request came to, so it counts in full."""
        self._left[key] = self._open.pop(key)

    def close(self) -> None:
        """Close the file. Raises ``StorageError``."""
        if self._journal is not None:
            self._journal.close()

    def told(self) -> str:
        """Return what was spent, in words."""
        usd = self.usd
        money = f", {usd:.4f} USD" if usd is not None and self.prices else ""
        return (
            f"{self.requests:,} requests, {self.prompt.total():,} prompt and {self.output.total():,} output "
            f"tokens{money}"
        )

    def _passed(self, model: str, prompt: int, output: int) -> str | None:
        """Return which limit one more request could pass, in words."""
        limits = self.limits
        requests, tokens = self.requests + 1, self.tokens + prompt + output
        if limits.requests is not None and requests > limits.requests:
            return f"the budget of {limits.requests:,} requests is reached (--max-requests): {self.told()}"
        if limits.tokens is not None and tokens > limits.tokens:
            return (
                f"the budget of {limits.tokens:,} tokens could be passed by the next request (--max-api-tokens): "
                f"{self.told()}"
            )
        if limits.usd is not None:
            usd = self._usd(self.prompt + Counter({model: prompt}), self.output + Counter({model: output}))
            assert usd is not None, "a limit in money needs every model's price"
            if usd > limits.usd:
                return (
                    f"the budget of {limits.usd:g} USD could be passed by the next request (--max-cost): {self.told()}"
                )
        return None

    def _usd(self, prompt: Mapping[str, int], output: Mapping[str, int]) -> float | None:
        models = {*prompt, *output}
        if not models <= self.prices.keys():
            return None
        return sum(self.prices[m].of(prompt.get(m, 0), output.get(m, 0)) for m in models)

    def _count(self, key: str, model: str, prompt: int, output: int) -> None:
        self.requests += 1
        self.prompt[model] += prompt
        self.output[model] += output
        self._open[key] = (model, prompt, output)

    def _correct(self, key: str, prompt: int, output: int) -> None:
        model, reserved_prompt, reserved_output = self._open.pop(key)
        self.prompt[model] += prompt - reserved_prompt
        self.output[model] += output - reserved_output

    def _restore(self, path: Path, line: Mapping[str, Any]) -> None:
        prompt, output, model = line.get("prompt", -1), line.get("output", -1), line.get("model")
        sound = type(prompt) is int and type(output) is int and min(prompt, output) >= 0
        if sound and isinstance(model, str):
            self._count(line["key"], model, prompt, output)
        elif sound and line.get("of") in self._open:
            self._correct(line["of"], prompt, output)
        else:
            raise InputError(f"{path}: line {show(line.get('key'))} is no spending of this version: restore the file")

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._journal is not None:
            self._journal.append(line)


def read_prices(path: Path) -> dict[str, Price]:
    """Return prices by model of a YAML file: a model's name, then ``in`` and ``out``, dollars for a million tokens.

    Raises ``InputError`` for a file that is not sound.
    """
    found = {}
    for name, value in read_yaml(path).items():
        if not isinstance(value, dict) or set(value) != {"in", "out"}:
            raise InputError(f"{path}: {show(name)} is {show(value)}, expected in and out, as in {{in: 1.5, out: 6}}")
        try:
            found[name] = Price(*(price_of(value[key], f"{path}: {key} of {show(name)}") for key in ("in", "out")))
        except UsageError as error:
            raise InputError(str(error)) from None
    return found


def price_of(value: object, what: str) -> float:
    """Return a price in dollars for a million tokens. Raises ``UsageError`` for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e6:
        raise UsageError(f"{what} is {show(value)}, expected US dollars for a million tokens, from 0 to 1,000,000")
    return float(value)

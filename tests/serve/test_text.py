"""Text that grows: whatever is told at once, the whole is the engine's, cut before the first stop string."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmeng.engine.results import encoded
from warmeng.engine.tokenizer import Tokenizer
from warmeng.serve.text import GrowingText


class Bytes:
    """A tokenizer whose tokens are bytes, but for 256, which is none of the text, and 257, which is two."""

    def decode_bytes(self, ids: tuple[int, ...]) -> bytes:
        return b"".join(b"" if i == 256 else b"ab" if i == 257 else bytes((i,)) for i in ids)


TOKENS = st.lists(st.sampled_from([*b"abc ", *"é€".encode(), 255, 256, 257]), max_size=40)
STOPS = st.lists(st.sampled_from(["a", "ab", "abc", "ba", "é", "aé", "cc", "c ab"]), max_size=3)


@given(TOKENS, STOPS, st.integers(0, 2**32))
def test_parts_add_up_to_the_whole(tokens: list[int], stops: list[str], seed: int) -> None:
    tokenizer = Bytes()
    end = len(tokens)
    for k in range(len(tokens)):  # the engine ends with the token that completes a stop string
        if any(encoded(stop) in tokenizer.decode_bytes(tuple(tokens[: k + 1])) for stop in stops):
            end = k + 1
            break
    tokens = tokens[:end]
    raw = tokenizer.decode_bytes(tuple(tokens))
    cut = min((at for stop in stops if (at := raw.find(encoded(stop))) >= 0), default=None)
    growing = GrowingText(tokenizer, stops)  # type: ignore[arg-type]
    draw, told, places = random.Random(seed), "", list[int]()
    fed = 0
    while fed < len(tokens) - 1:
        step = draw.randint(1, 3)
        growing.feed(tokens[fed : min(fed + step, len(tokens) - 1)])
        fed = min(fed + step, len(tokens) - 1)
        text, some = growing.take()
        told, places = told + text, [*places, *some]
        assert raw[:cut].decode("utf-8", "replace").startswith(told)
    growing.feed(tokens[fed:])
    text, some = growing.finish()
    assert told + text == raw[:cut].decode("utf-8", "replace")
    starts = [len(tokenizer.decode_bytes(tuple(tokens[:k]))) for k in range(len(tokens))]
    assert [*places, *some] == [k for k, start in enumerate(starts) if cut is None or start < cut]


def test_what_may_begin_a_stop_string_is_held_back() -> None:
    growing = GrowingText(Bytes(), ["stop"])  # type: ignore[arg-type]
    growing.feed(b"go st")
    assert growing.take()[0] == "go "
    growing.feed(b"ay")
    assert growing.take()[0] == "stay"


def test_the_tokenizers_own_bytes_are_used(tiny_model) -> None:
    tokenizer = Tokenizer.load(tiny_model("llama"))
    growing = GrowingText(tokenizer, [])
    growing.feed(tokenizer.encode("né")[:-1])
    assert growing.take()[0] == "n"
    growing.feed(tokenizer.encode("né")[-1:])
    assert growing.take()[0] == "é"


@pytest.mark.parametrize("stop", ["\ud800", "x"])
def test_a_stop_string_that_never_comes(stop: str) -> None:
    growing = GrowingText(Bytes(), [stop])  # type: ignore[arg-type]
    growing.feed(b"abc")
    assert growing.finish() == ("abc", range(3))

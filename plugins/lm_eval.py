"""``warmeng`` as a model of lm-evaluation-harness: every request of a task in one continuous batch, in this process.

The harness finds models that are imported before it starts. ``warmeng lm-eval`` does that; a program of one's own has
to ``import warmeng.plugins.lm_eval``.

Texts become tokens as the harness's ``hf`` makes them, so that both measure the same: special tokens' strings in a
text are those tokens, and a text begins with the model's first token where its tokenizer puts one there.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from warmeng.common.errors import InputError, UsageError, one_line, show
from warmeng.engine.request import GenerateRequest, Request, Result, SamplingParams, ScoreRequest, ScoreResult
from warmeng.engine.settings import AUTO, EngineSettings
from warmeng.serve.catalog import load
from warmeng.serve.errors import ApiError
from warmeng.study.personas import load_personas

# Of the arguments of generation that are no part of ``SamplingParams``.
UNTIL, MAX, DO_SAMPLE = "until", "max_gen_toks", "do_sample"
SAMPLING = ("temperature", "top_p", "top_k")
# Continuations of one context that are scored together: their tokens are in the cache at the same time.
MAX_LABELS, MAX_LABEL_TOKENS = 32, 1024

Tokens = tuple[int, ...]
# What the harness hands on: (context, continuation) as text, and the tokens of both.
Pair = tuple[Any, Sequence[int], Sequence[int]]


@register_model("warmeng")
class WarmengLM(TemplateLM):  # type: ignore[misc]
    """A base or one of its personas.

    ``pretrained``: the model, as ``--model`` of ``warmeng run`` has it. ``persona``: a persona, as ``--persona`` has
    it; the base itself unless given. ``device``: "cpu", "cuda" or "auto". ``max_length``: the most tokens of context
    and continuation together. ``add_bos_token``: whether texts begin with the model's first token; as its tokenizer
    has it unless given. ``seed``: of what is sampled. ``dtype``, ``weights`` and ``fast``: as ``warmeng run`` has them.
    ``batch_size`` has no effect: the engine takes what fits.
    """

    def __init__(
        self,
        pretrained: str,
        persona: str | None = None,
        revision: str | None = None,
        device: str | None = None,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        add_bos_token: bool | None = None,
        seed: int = 0,
        dtype: str = AUTO,
        weights: str = AUTO,
        fast: bool = False,
        batch_size: Any = None,
        max_batch_size: Any = None,
        **unknown: Any,
    ) -> None:
        super().__init__()
        if unknown:
            raise UsageError(f"the model argument {one_line(next(iter(unknown)))!r} is not supported: leave it out")
        settings = EngineSettings(
            dtype=dtype, weights=weights, fast=fast, max_seq_len=max_length or EngineSettings.max_seq_len
        )
        specs = [] if persona is None else [str(persona)]
        self._engine, catalog = load(
            str(pretrained), load_personas(specs), settings, revision=revision, device=_device(device), say=_say
        )
        # The base is the first, its persona the second.
        self._served = list(catalog.models.values())[-1]
        self._tokenizer = self._engine.tokenizer
        self.max_length, self.max_gen_toks, self._seed = self._engine.max_seq_len, max_gen_toks, seed
        self._add_bos = self._tokenizer.adds_bos if add_bos_token is None else add_bos_token
        # The harness applies the chat template, and says nowhere else that it does.
        self._templated = False

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text, or an answer where none does."""
        return self._tokenizer.end_of_turn if self._tokenizer.eos_id is None else self._tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        """The token that stands before a text without a context."""
        return self.eot_token_id if self._tokenizer.bos_id is None else self._tokenizer.bos_id

    @property
    def tokenizer_name(self) -> str:
        """What the harness keeps its requests by: a persona's system prompt is in them."""
        return f"{self._served.id}:{self._tokenizer.template_hash}:{self._served.system or ''}"

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Return the model's chat template where one is asked for. Raises UsageError for one of another name."""
        if isinstance(chat_template, str):
            raise UsageError(f"the model has one chat template, none named {show(chat_template)}: leave the name out")
        self._templated = bool(chat_template)
        return self._tokenizer.template if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return a conversation as text, after the persona's system prompt; without a generation prompt its last
        message is the beginning of the answer. Raises UsageError where a second system prompt is given.
        """
        self._templated = True
        try:
            talk = self._served.conversation(chat_history)
        except ApiError as error:
            raise UsageError(str(error)) from None
        if add_generation_prompt:
            return self._tokenizer.render(talk)
        return self._tokenizer.render(talk[:-1], continue_text=talk[-1]["content"])

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Return the tokens of a text; see the module."""
        ids = self._tokenizer.parse(string)
        first = self._tokenizer.bos_id
        begins = self._add_bos if add_special_tokens is None else add_special_tokens
        return [first, *ids] if begins and first is not None and ids[:1] != [first] else ids

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-probability of each text, in windows of the context's length where it is longer."""
        pairs: list[Pair] = []
        counts = []
        for request in requests:
            (text,) = request.args
            windows = get_rolling_token_windows(
                # The engine has a place for the last token too.
                self.tok_encode(text), self.prefix_token_id, max_seq_len=self.max_length - 1, context_len=1
            )  # fmt: skip
            found = [(None, *make_disjoint_window(window)) for window in windows]
            pairs += found
            counts.append(len(found))
        scores = iter(self._loglikelihood_tokens(pairs, disable_tqdm=disable_tqdm))
        totals = [sum(next(scores)[0] for _ in range(count)) for count in counts]
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Return an answer to each context. Raises UsageError for arguments that are not supported."""
        self._require_conversation()
        asked: list[GenerateRequest] = []
        # By its context a request draws the same noise wherever it stands; asked again it is the next sample.
        samples: Counter[str] = Counter()
        for place, request in enumerate(requests):
            context, given = request.args
            sampling = self._sampling(given)
            room = self.max_length - sampling.max_new_tokens
            if room < 1:
                raise UsageError(
                    f"{MAX} is {sampling.max_new_tokens}, the model takes {self.max_length} tokens with the context: "
                    "ask for less"
                )
            prompt = tuple(self.tok_encode(context)[-room:]) or (self.prefix_token_id,)
            noise = (context, samples[context])
            asked.append(GenerateRequest(str(place), prompt, sampling, self._served.adapter, noise))
            samples[context] += 1
        texts: dict[str, str] = {}
        for result in self._results(asked, "generate_until", disable_tqdm):
            assert not isinstance(result, ScoreResult)
            texts[result.id] = result.text
            request = requests[int(result.id)]
            self.cache_hook.add_partial("generate_until", request.args, result.text)
        return [texts[request.id] for request in asked]

    def _loglikelihood_tokens(
        self, requests: Sequence[Pair], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Return each continuation's log-probability after its context, and whether greedy decoding writes it.

        Continuations of one context share its computation.
        """
        self._require_conversation()
        cut = [self._cut(context, continuation) for _, context, continuation in requests]
        texts = {tokens: request[0] for tokens, request in zip(cut, requests, strict=True)}
        asked = list(_grouped(cut, self._served.adapter))
        by_id = {request.id: request for request in asked}
        scores: dict[tuple[Tokens, Tokens], tuple[float, bool]] = {}
        for result in self._results(asked, "loglikelihood", disable_tqdm):
            assert isinstance(result, ScoreResult)
            request = by_id[result.id]
            for label, value, top in zip(request.labels, result.logprobs, result.top_logprobs, strict=True):
                greedy = all(token == likeliest for token, ((likeliest, _),) in zip(label, top, strict=True))
                scores[request.prompt, label] = value, greedy
                if texts[request.prompt, label] is not None:
                    self.cache_hook.add_partial("loglikelihood", texts[request.prompt, label], (value, greedy))
        return [scores[tokens] for tokens in cut]

    def _cut(self, context: Sequence[int], continuation: Sequence[int]) -> tuple[Tokens, Tokens]:
        """Leave out the beginning of a context that is too long, as the harness's own models do."""
        room = self.max_length - len(continuation)
        if room < 1:
            raise InputError(
                f"a continuation has {len(continuation)} tokens, the model takes {self.max_length} with its context: "
                "leave the item out, or give a larger max_length"
            )
        return tuple(context[-room:]), tuple(continuation)

    def _sampling(self, given: Mapping[str, Any]) -> SamplingParams:
        values = dict(normalize_gen_kwargs(dict(given), self.max_gen_toks))
        until, most = values.pop(UNTIL), values.pop(MAX)
        if not values.pop(DO_SAMPLE):
            values = {name: value for name, value in values.items() if name not in SAMPLING}
        if others := [name for name in values if name not in SAMPLING]:
            raise UsageError(
                f"the argument of generation {one_line(others[0])!r} is not supported: leave it out, or use "
                f"{', '.join((UNTIL, MAX, DO_SAMPLE, *SAMPLING))}"
            )
        stops = tuple(stop for stop in until if stop)
        return SamplingParams(max_new_tokens=most, seed=self._seed, stop=stops, **values)

    def _results(self, requests: Sequence[Request], name: str, disable_tqdm: bool) -> Iterator[Result]:
        """Answer all requests in one batch, as they finish. Raises InputError for one that can't be answered."""
        try:
            for request in requests:
                self._engine.add(request)
            finished = self._engine.results()
            for result in tqdm(finished, total=len(requests), desc=f"Running {name} requests", disable=disable_tqdm):
                if result.status != "ok":
                    raise InputError(f"{name}: {result.detail}")
                yield result
        finally:
            self._engine.cancel()

    def _require_conversation(self) -> None:
        if self._served.system is not None and not self._templated:
            raise UsageError(f"{self._served.id} is a system prompt, which a text has not: give --apply_chat_template")


def _grouped(pairs: Sequence[tuple[Tokens, Tokens]], adapter: str | None) -> Iterator[ScoreRequest]:
    """Put the continuations of a context together, each once, as many as may be."""
    by_context: dict[Tokens, dict[Tokens, None]] = {}
    for context, continuation in pairs:
        by_context.setdefault(context, {})[continuation] = None
    count = 0

    def request(context: Tokens, labels: Sequence[Tokens]) -> ScoreRequest:
        nonlocal count
        count += 1
        return ScoreRequest(str(count), context, tuple(labels), adapter, top_logprobs=1)

    for context, continuations in by_context.items():
        group: list[Tokens] = []
        for continuation in continuations:
            full = len(group) == MAX_LABELS or sum(map(len, [*group, continuation])) > MAX_LABEL_TOKENS
            if group and full:
                yield request(context, group)
                group = []
            group.append(continuation)
        yield request(context, group)


def _device(given: str | None) -> str:
    """Return the engine's name of a device: the harness says ``cuda:0`` where nobody said anything."""
    return "auto" if given in (None, "cuda:0") else str(given)


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def run(arguments: Sequence[str]) -> None:
    """Run the harness's own command line with these arguments."""
    from lm_eval.__main__ import cli_evaluate

    before = sys.argv
    sys.argv = ["lm_eval", *arguments]
    try:
        command: Callable[[], None] = cli_evaluate
        command()
    finally:
        sys.argv = before

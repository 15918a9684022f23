"""From settings to keyed requests: personas x tasks x contexts x beliefs, item by item."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from warmeng.engine.errors import InputError
from warmeng.engine.request import GenerateRequest, Request, SamplingParams, ScoreRequest
from warmeng.study.backend import TokenizerLike
from warmeng.study.contexts import UNMODIFIED, Contexts, load_contexts
from warmeng.study.grading import ANSWER_PREFIX, label_texts, rules
from warmeng.study.personas import Persona, load_personas
from warmeng.study.prompts import COMPOSITIONS, messages
from warmeng.study.settings import StudySettings
from warmeng.study.tasks import Item, Task, load_tasks

BLOCK = 16  # positions of the engine's prefix cache that are shared whole


@dataclass(frozen=True, slots=True)
class Cell:
    """One persona x task x context x belief, by name."""

    persona: str
    task: str
    context: str
    belief: str


@dataclass(frozen=True, slots=True)
class Planned:
    """One request with the place in the study that it belongs to; ``key`` identifies it and its answer."""

    key: str
    cell: Cell
    task: Task
    item: Item
    sample: int
    request: Request


@dataclass(frozen=True)
class Study:
    """A study with everything read from disk that does not need the model."""

    settings: StudySettings
    personas: tuple[Persona, ...]
    tasks: tuple[Task, ...]  # with the sampled items only
    contexts: Contexts

    @classmethod
    def load(cls, settings: StudySettings) -> Study:
        """Read what the settings name; ``UsageError`` or ``InputError`` where it is not there or not sound."""
        return cls(
            settings,
            load_personas(settings.personas),
            tuple(task.sample(settings.limit, settings.seed) for task in load_tasks(settings.tasks)),
            load_contexts(settings.contexts),
        )

    def samples(self, task: Task) -> int:
        """Answers per cell and item: likelihoods are exact, so one of them says it all."""
        return self.settings.samples if task.grading == "alias" else 1

    def per_persona(self) -> int:
        """Requests of one persona."""
        cells = len(self.contexts) * len(self.settings.beliefs)
        return sum(len(task.items) * self.samples(task) for task in self.tasks) * cells

    @property
    def size(self) -> int:
        """All requests."""
        return self.per_persona() * len(self.personas)

    def inputs(self) -> dict[str, Any]:
        """JSON-able settings and hashes: a run continues only where all of these are the same."""

        def digest(value: object) -> str:
            return hashlib.sha256(orjson.dumps(value)).hexdigest()

        return {
            "setting": self.settings.as_dict(),
            "items": {task.name: task.hash for task in self.tasks},
            "statements": {name: digest(found) for name, found in self.contexts.items() if name != UNMODIFIED},
            "system prompt": {p.name: digest(p.system) for p in self.personas},
        }


class Planner:
    """Makes a study's requests for one loaded model."""

    def __init__(
        self,
        study: Study,
        tokenizer: TokenizerLike,
        stop_token_ids: Iterable[int],
        identity: Mapping[str, Any],
        adapters: Mapping[str, str],
    ) -> None:
        """Take what of the model determines answers (``identity``) and the hash of each persona's adapter."""
        self.study = study
        self.tokenizer = tokenizer
        self.adapters = dict(adapters)
        self.end = end_token(tokenizer, stop_token_ids)
        self.base = orjson.dumps([dict(identity), tokenizer.template_hash], option=orjson.OPT_SORT_KEYS)

    def __iter__(self) -> Iterator[Planned]:
        """Yield all requests, all personas of an item together, in an order fixed by the settings."""
        study = self.study
        for task in study.tasks:
            for item in task.items:
                for context in study.contexts:
                    for belief in study.settings.beliefs:
                        user = COMPOSITIONS[study.settings.composition](task, item, context, belief, study.contexts)
                        for persona in study.personas:
                            cell = Cell(persona.name, task.name, context, belief)
                            yield from self._planned(cell, persona, task, item, user)

    def _planned(self, cell: Cell, persona: Persona, task: Task, item: Item, user: str) -> Iterator[Planned]:
        generated = task.grading == "alias"
        prompt = self.tokenizer.chat(messages(persona, user), True, "" if generated else ANSWER_PREFIX)
        s = self.study.settings
        for sample in range(self.study.samples(task)):
            noise = (f"{task.name}/{item.id}", sample)
            drawn = [s.max_new_tokens, s.temperature, s.top_p, s.seed] if generated else [self.end]
            place = [cell.persona, cell.task, cell.context, cell.belief, *noise]
            content = [place, self.adapters.get(persona.name), prompt, drawn, rules(task.grading, item)]
            key = hashlib.sha256(self.base + orjson.dumps(content)).hexdigest()[:32]
            adapter = persona.name if persona.adapter else None
            request: Request
            if generated:
                sampling = SamplingParams(s.max_new_tokens, s.temperature, top_p=s.top_p, seed=s.seed)
                request = GenerateRequest(key, tuple(prompt), sampling, adapter=adapter, noise_key=noise)
            else:
                end = [] if task.grading == "options" else [self.end]
                labels = tuple((*self.tokenizer.encode(text), *end) for text in label_texts(item, task.grading))
                request = ScoreRequest(key, tuple(prompt), labels, adapter=adapter)
            yield Planned(key, cell, task, item, sample, request)


def end_token(tokenizer: TokenizerLike, stop_token_ids: Iterable[int]) -> int:
    """Return the token that the chat template puts after an answer: the last stop token of a rendered exchange."""
    stops = set(stop_token_ids)
    exchange = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hello."}]
    ends = [token for token in tokenizer.chat(exchange, False) if token in stops]
    if not stops:
        raise InputError("the model names no token that ends an answer: set eos_token_id in its config.json")
    return ends[-1] if ends else min(stops)


@dataclass(frozen=True)
class Estimate:
    """What a plan asks for. ``new_prompt_tokens`` are those that no earlier prompt shares; seconds at given rates."""

    cells: int
    generations: int
    scores: int
    prompt_tokens: int
    new_prompt_tokens: int
    output_tokens: int  # at most
    longest: int  # tokens of the longest prompt with its answer

    def seconds(self, prompt_rate: float, output_rate: float) -> float:
        """Upper estimate of the time, for rates in tokens a second."""
        return self.new_prompt_tokens / prompt_rate + self.output_tokens / output_rate


def estimate(planner: Planner) -> Estimate:
    """Count a plan's tokens with the real tokenizer, whole blocks that an earlier prompt computed left out."""
    seen: set[tuple[str | None, int]] = set()
    cells: set[Cell] = set()
    generations = scores = prompts = new = output = longest = 0
    for planned in planner:
        request = planned.request
        cells.add(planned.cell)
        shared, chain = 0, 0
        whole = (len(request.prompt) - 1) // BLOCK
        for k in range(whole):
            chain = hash((chain, request.prompt[k * BLOCK : (k + 1) * BLOCK]))
            shared += (request.adapter, chain) in seen
            seen.add((request.adapter, chain))
        if isinstance(request, GenerateRequest):
            generations += 1
            after = request.sampling.max_new_tokens
            output += after
            extra = 0
        else:
            scores += 1
            after = extra = sum(len(label) for label in request.labels)
        prompts += len(request.prompt) + extra
        new += len(request.prompt) - shared * BLOCK + extra
        longest = max(longest, len(request.prompt) + after)
    return Estimate(len(cells), generations, scores, prompts, new, output, longest)

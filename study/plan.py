"""From settings to keyed requests: personas x tasks x contexts x beliefs x framings, item by item."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from warmeng.common.errors import InputError, UsageError
from warmeng.engine.request import GenerateRequest, Request, SamplingParams, ScoreRequest
from warmeng.remote.names import is_api
from warmeng.remote.request import ChatRequest
from warmeng.study.api import check_subject, without_likelihoods
from warmeng.study.claim import Claim, claim_of
from warmeng.study.contexts import FILE, UNMODIFIED, Contexts, load_contexts
from warmeng.study.expectation import Expected, expected_of
from warmeng.study.grading.exact import ANSWER_PREFIX, label_texts, rules
from warmeng.study.grading.labels import Own, margin_places
from warmeng.study.outcomes import primary_outcome
from warmeng.study.personas import Persona, load_personas
from warmeng.study.prompts import (
    CHOICE,
    COMPOSITIONS,
    OPEN,
    ORDERS,
    PLAIN,
    choice,
    fits,
    messages,
    names_wrong,
)
from warmeng.study.settings import StudySettings
from warmeng.study.tasks.registry import load_tasks
from warmeng.study.tasks.task import GENERAL, Item, Task
from warmeng.study.tasks.wrong_answers import missing

if TYPE_CHECKING:
    from warmeng.engine.tokenizer import Tokenizer

# Gradings of tasks whose right and wrong answers have probabilities that tell something.
COMPARED = ("alias", "judge", "likelihood", "options")
# Answers of a run: weeks on a single machine.
MOST = 10_000_000
# Least room for an answer that is worked out step by step, whatever the settings give others.
STEPS_TOKENS = 400


class Place(NamedTuple):
    """Where an item is asked, whoever answers."""

    context: str
    belief: str
    framing: str


BASE = Place(UNMODIFIED, "none", "plain")


@dataclass(frozen=True, slots=True)
class Cell:
    """One persona x task x context x belief, by name; ``framing`` says whether the neutral sentence is there."""

    persona: str
    task: str
    context: str
    belief: str
    framing: str = "plain"


@dataclass(frozen=True, slots=True)
class Planned:
    """One request with the place in the study that it belongs to; ``key`` identifies it and its answer.

    ``owns`` tells the right and the wrong answer's own tokens among the labels, where there are both. ``margin``: the
    request has no other purpose than their probabilities, and gives no answer; ``order`` is one of ``ORDERS`` where it
    asks for a choice.
    """

    key: str
    cell: Cell
    task: Task
    item: Item
    sample: int
    request: Request | ChatRequest
    owns: tuple[Own, ...] = ()
    margin: bool = False
    order: str = ""


@dataclass(frozen=True)
class Study:
    """A study with everything read from disk that does not need the model."""

    settings: StudySettings
    personas: tuple[Persona, ...]
    tasks: tuple[Task, ...]  # with the sampled items only
    contexts: Contexts
    # Task -> hash of its items as the files have them.
    sources: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, settings: StudySettings) -> Study:
        """Read what the settings name; ``UsageError`` or ``InputError`` where it is not there or not sound."""
        tasks = load_tasks(settings.tasks, settings.limit, settings.seed)
        contexts = load_contexts(settings.contexts, Path(settings.statements) if settings.statements else FILE)
        personas = load_personas(settings.personas)
        if is_api(settings.model):
            tasks = tuple(map(without_likelihoods, tasks))
        study = cls(settings, personas, tasks, contexts, {task.name: task.hash for task in tasks})
        check_subject(settings, personas)
        if (asked := study.size + study.scores_beside) > MOST:
            raise UsageError(
                f"the settings ask for {asked:,} answers and scores, expected at most {MOST:,}: lower samples, limit "
                "or cells"
            )
        # Refuses an outcome, a contrast and an expectation that the run can't have.
        _ = study.claim, study.expected
        if OPEN not in settings.asking:
            for task in tasks:
                if not study.compared(CHOICE, (task,)):
                    raise UsageError(
                        f"{task.name}: has nothing to choose between, so it can't be asked as a choice alone: ask open "
                        "too, or leave the task out"
                    )
        for task in tasks:
            if not any(study.places_of(task, item) for item in task.items):
                raise UsageError(
                    f"{task.name}: is asked nowhere in contexts {', '.join(contexts)}, beliefs "
                    f"{', '.join(settings.beliefs)} and framings {', '.join(settings.framings)}: ask for more of them"
                )
        return study

    def places(self, task: Task) -> tuple[Place, ...]:
        """Return where in the grid a task's items may be asked, fixed user messages aside."""
        if task.layout in GENERAL:
            return (BASE,)
        s = self.settings
        return tuple(
            Place(context, belief, framing)
            for context in self.contexts
            for belief in s.beliefs
            for framing in s.framings
            if fits(s.composition, task, context, belief, framing)
        )

    def places_of(self, task: Task, item: Item) -> tuple[Place, ...]:
        """Return where an item is asked: where its fixed messages are, or at most ``cells`` places of its task."""
        found = self.places(task)
        if item.prompts:
            s = self.settings
            mine = {Place(p.context, p.belief, p.framing) for p in item.prompts}
            found = tuple(
                Place(context, belief, framing)
                for context in self.contexts
                for belief in s.beliefs
                for framing in s.framings
                if Place(context, belief, framing) in mine
            )
        return chosen(found, self.settings.cells, f"{self.settings.seed}\0{task.name}\0{item.id}")

    def lacks_wrong(self, task: Task) -> bool:
        """Whether the run needs wrong answers that the task has not: someone names one, or it is compared."""
        s = self.settings
        needed = any(map(names_wrong, s.beliefs)) or CHOICE in s.asking or task.grading in ("likelihood", "options")
        return needed and task.layout not in GENERAL and bool(missing(task))

    def samples(self, task: Task) -> int:
        """Answers per cell and item: likelihoods are exact, so one of them says it all. A choice alone has none."""
        if OPEN not in self.settings.asking:
            return 0
        return self.settings.samples if task.generated else 1

    def per_persona(self) -> int:
        """Requests of one persona. Nothing is hashed for it: ``chosen`` always fills up what there is."""
        total = 0
        for task in self.tasks:
            cells = self.settings.cells
            usual = len(self.places(task))
            usual = min(usual, cells) if cells else usual
            fixed = [item for item in task.items if item.prompts]
            count = (len(task.items) - len(fixed)) * usual + sum(len(self.places_of(task, item)) for item in fixed)
            total += count * self.samples(task)
        return total

    def margins(self, task: Task, item: Item, framing: str) -> tuple[str, ...]:
        """Return the scores of the right and the wrong answer that each place of an item asks for beside its answers.

        One of ``ORDERS`` is a choice, an empty text the place's own message. A likelihood is an answer and a margin at
        once; a generated answer needs one score more, whatever the samples. Where a source fixes the messages there is
        no choice, nor in another than the plain ``framing``: no table counts it there.
        """
        if is_api(self.settings.model) or not has_margin(task, item):
            return ()
        chosen = CHOICE in self.settings.asking and not item.prompts and task.layout not in GENERAL and framing == PLAIN
        answered = task.generated and OPEN in self.settings.asking
        return (*([""] if answered else []), *(ORDERS if chosen else ()))

    @property
    def primary(self) -> str:
        """The outcome of margins that the run is about; "" where it is about right and wrong answers."""
        s = self.settings
        if is_api(s.model):
            return ""
        return primary_outcome(s.beliefs, [style for style in s.asking if self.compared(style)], s.outcome)

    def compared(self, asking: str, tasks: Sequence[Task] = ()) -> int:
        """Return how many questions have a margin in an asking style, of all tasks unless told.

        Tasks of general ability are not among them.
        """
        # Wrong answers that are missing are written before anything is asked.
        return sum(
            (bool(item.wrong.strip()) or self.lacks_wrong(task)) and not (asking == CHOICE and item.prompts)
            for task in tasks or self.tasks
            if task.layout not in GENERAL and task.grading in COMPARED
            for item in task.items
        )

    @property
    def claim(self) -> Claim | None:
        """The primary claim: the outcome, and whose difference in it; ``None`` for a single persona."""
        s = self.settings
        return claim_of(self.primary, [p.name for p in self.personas], s.contrast, s.expect)

    @property
    def expected(self) -> tuple[Expected, ...]:
        """Who is expected to be warmer than whom."""
        return expected_of(self.settings.expect, [p.name for p in self.personas])

    @property
    def scores_beside(self) -> int:
        """All requests beside those for answers: scores that give margins alone."""
        total = 0
        for task in self.tasks:
            for item in task.items:
                places = Counter(place.framing for place in self.places_of(task, item))
                total += sum(count * len(self.margins(task, item, framing)) for framing, count in places.items())
        return total * len(self.personas)

    @property
    def left_out(self) -> int:
        """Fixed user messages whose context, belief or framing the settings do not ask for."""
        kept = {Place(c, b, f) for c in self.contexts for b in self.settings.beliefs for f in self.settings.framings}
        every = (p for task in self.tasks for item in task.items for p in item.prompts)
        return sum(Place(p.context, p.belief, p.framing) not in kept for p in every)

    @property
    def size(self) -> int:
        """All answers."""
        return self.per_persona() * len(self.personas)

    def inputs(self) -> dict[str, Any]:
        """JSON-able settings and hashes: a run continues only where all of these are the same.

        Items are hashed as their files have them: wrong answers written for a run are not there yet when it starts.
        """

        def digest(value: object) -> str:
            return hashlib.sha256(orjson.dumps(value)).hexdigest()

        return {
            "setting": self.settings.as_dict(),
            "items": dict(self.sources) or {task.name: task.hash for task in self.tasks},
            "statements": {name: digest(found) for name, found in self.contexts.items() if name != UNMODIFIED},
            "system prompt": {p.name: digest(p.system) for p in self.personas},
        }


def has_margin(task: Task, item: Item) -> bool:
    """Whether an item has one right and one wrong answer whose probabilities tell something.

    Not a number that is worked out first, nor a request that is to be refused.
    """
    return bool(item.wrong.strip()) and task.grading in COMPARED


def chosen(places: Sequence[Place], most: int, which: str) -> tuple[Place, ...]:
    """Return ``min(most, len(places))`` places (0: all), by a hash of ``which`` alone, in their order.

    ``BASE`` is always among them. A place with a belief comes with the one of its context that has none, where there
    is one: what the belief changes can be told only beside it.
    """
    if not most or len(places) <= most:
        return tuple(places)
    known = set(places)
    found = {BASE} & known
    for place in sorted(known, key=lambda p: hashlib.sha256(f"cells\0{which}\0{p}".encode()).digest()):
        more = {place} | ({Place(place.context, "none", "plain")} & known if place.belief != "none" else set())
        if len(found | more) <= most:
            found |= more
    return tuple(place for place in places if place in found)


class Planner:
    """Makes a study's requests for one model; iterating again makes the same ones."""

    def __init__(
        self,
        study: Study,
        tokenizer: Tokenizer,
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
        compose = COMPOSITIONS[study.settings.composition]
        for task in study.tasks:
            assert not study.lacks_wrong(task), f"{task.name}: wrong answers are to be filled in before planning"
            for item in task.items:
                fixed = {Place(p.context, p.belief, p.framing): p.text for p in item.prompts}
                bare = replace(item, prompts=())
                graded = orjson.dumps(rules(task.grading, bare))
                for place in study.places_of(task, item):
                    user = fixed[place] if fixed else compose(task, bare, *place, study.contexts)
                    for persona in study.personas:
                        cell = Cell(persona.name, task.name, *place)
                        yield from self._planned(cell, persona, task, bare, user, graded)
                        for order in study.margins(task, item, place.framing):
                            asked = choice(task, bare, *place, study.contexts, order) if order else user
                            yield self._margin(cell, persona, task, bare, asked, order)

    def _planned(
        self, cell: Cell, persona: Persona, task: Task, item: Item, user: str, graded: bytes
    ) -> Iterator[Planned]:
        conversation = messages(persona, user)
        labels: list[list[int]] = []
        owns: tuple[Own, ...] = ()
        if task.generated:
            prompt = self.tokenizer.chat(conversation)
        else:
            texts = label_texts(item, task.grading)
            prompt, labels = self.tokenizer.continuations(conversation, ANSWER_PREFIX, texts)
            if has_margin(task, item):
                owns = self._owns(texts, labels, margin_places(item, task.grading))
        sampling = self._sampling(task)
        for sample in range(self.study.samples(task)):
            noise = (f"{task.name}/{item.id}", sample)
            drawn = [sampling.max_new_tokens, sampling.temperature, sampling.top_p, sampling.seed]
            place = [cell.persona, cell.task, cell.context, cell.belief, cell.framing, *noise]
            content = [place, self.adapters.get(persona.name), prompt, drawn if task.generated else [self.end]]
            key = self._key(content, graded)
            adapter = persona.name if persona.changes else None
            request: Request
            if task.generated:
                request = GenerateRequest(key, tuple(prompt), sampling, adapter=adapter, noise_key=noise)
            else:
                end = [] if task.grading == "options" else [self.end]
                request = ScoreRequest(key, tuple(prompt), tuple((*ids, *end) for ids in labels), adapter=adapter)
            yield Planned(key, cell, task, item, sample, request, owns)

    def _margin(self, cell: Cell, persona: Persona, task: Task, item: Item, user: str, order: str) -> Planned:
        """Return the score of the right and the wrong answer after a message, written as in ``likelihood``."""
        texts = label_texts(item, "likelihood")[:2]
        prompt, labels = self.tokenizer.continuations(messages(persona, user), ANSWER_PREFIX, texts)
        place = [cell.persona, cell.task, cell.context, cell.belief, cell.framing, item.id, "margin", order]
        key = self._key([place, self.adapters.get(persona.name), prompt, labels, [self.end]])
        adapter = persona.name if persona.changes else None
        request = ScoreRequest(key, tuple(prompt), tuple((*ids, self.end) for ids in labels), adapter=adapter)
        return Planned(key, cell, task, item, 0, request, self._owns(texts, labels), True, order)

    def _key(self, content: Sequence[object], rest: bytes = b"") -> str:
        return hashlib.sha256(self.base + orjson.dumps(content) + rest).hexdigest()[:32]

    def _owns(
        self, texts: Sequence[str], labels: Sequence[Sequence[int]], places: Sequence[int] = (0, 1)
    ) -> tuple[Own, ...]:
        """Return what of the right and the wrong answer's labels, which are at these places, is their own."""
        return tuple(Own.of(texts[k], labels[k], self.tokenizer.decode_bytes) for k in places)

    def _sampling(self, task: Task) -> SamplingParams:
        s = self.study.settings
        if task.grading == "number":
            return SamplingParams(max(s.max_new_tokens, STEPS_TOKENS), s.number_temperature, top_p=s.top_p, seed=s.seed)
        return SamplingParams(s.max_new_tokens, s.temperature, top_p=s.top_p, seed=s.seed)


def end_token(tokenizer: Tokenizer, stop_token_ids: Iterable[int]) -> int:
    """Return the token that the chat template puts after an answer, at which generation must stop too."""
    if tokenizer.end_of_turn not in stop_token_ids:
        raise InputError(
            f"the chat template ends an answer with token {tokenizer.end_of_turn}, but generation goes on after it: "
            "set eos_token_id in the model's config.json"
        )
    return tokenizer.end_of_turn

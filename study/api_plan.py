"""A study's requests to a model behind an API: conversations in place of tokens, and nothing that needs its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from warmeng.remote.request import ChatRequest
from warmeng.study.personas import Persona
from warmeng.study.plan import Cell, Planned, Planner, Study
from warmeng.study.prompts import LETTERS, messages, ordered
from warmeng.study.tasks.task import Item, Task


class ApiPlanner(Planner):
    """Makes a study's requests for one model behind an API."""

    def __init__(self, study: Study, identity: Mapping[str, Any]) -> None:
        """Take what is known of what determines the answers."""
        self.study = study
        self.base = orjson.dumps(dict(identity), option=orjson.OPT_SORT_KEYS)
        # Whether the server tells the likeliest tokens.
        self.tells = bool(identity.get("top_logprobs"))

    def _planned(
        self, cell: Cell, persona: Persona, task: Task, item: Item, user: str, graded: bytes
    ) -> Iterator[Planned]:
        conversation = tuple((m["role"], m["content"]) for m in messages(persona, user))
        sampling = self._sampling(task)
        labels = () if task.generated or not self.tells else LETTERS[: len(ordered(item))]
        limit, temperature, top_p = sampling.max_new_tokens, sampling.temperature, sampling.top_p
        if labels:
            # Some servers tell log-probabilities after they divided by the temperature.
            limit, temperature, top_p = 1, 1.0, 1.0
        for sample in range(self.study.samples(task)):
            noise = [sampling.seed, task.name, item.id, sample]
            seed = int.from_bytes(hashlib.sha256(orjson.dumps(noise)).digest()[:4], "big") >> 1
            place = [cell.persona, cell.task, cell.context, cell.belief, cell.framing, *noise]
            key = self._key([place, conversation, limit, temperature, top_p, seed, labels], graded)
            request = ChatRequest(key, conversation, limit, temperature, top_p, seed, labels)
            yield Planned(key, cell, task, item, sample, request)

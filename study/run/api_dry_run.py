"""What a run would ask of an API, and what that costs, without asking it anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from warmeng.remote.budget import in_batches
from warmeng.remote.names import check_base, is_api, model_of
from warmeng.remote.request import ChatRequest
from warmeng.study.api_plan import ApiPlanner
from warmeng.study.estimate import Estimate
from warmeng.study.grading.judge import OWN_TOKENS, ApiJudge
from warmeng.study.grading.rows import Row, read_rows, row_of
from warmeng.study.personas import by_model, on_base
from warmeng.study.plan import Study
from warmeng.study.report.settings_text import several
from warmeng.study.run.api import api_models, limits_of, prices_of
from warmeng.study.run.calibrate import LABELLED
from warmeng.study.run.judges import BASE, JUDGED, is_judged

# UTF-8 bytes of a token of English prose: nobody's tokenizer is asked.
BYTES = 4

Lines = Iterator[tuple[str, Any]]


@dataclass
class Asked:
    """Requests to one model, and their tokens: about, and at most where nothing is repeated."""

    requests: int = 0
    about: int = 0
    most: int = 0
    output: int = 0
    kinds: Counter[str] = field(default_factory=Counter)

    def add(self, request: ChatRequest, kind: str, times: int = 1) -> None:
        """Count a request."""
        texts = sum(len(content.encode()) for _, content in request.messages)
        self.requests += times
        self.kinds[kind] += times
        self.about += times * -(-texts // BYTES)
        self.most += times * request.most_prompt
        self.output += times * request.max_tokens


def asked_of(study: Study) -> dict[str, Asked]:
    """Return what each model behind an API would be asked, by its name; a probe of each, judges' labelled answers too.

    A judge's prompts have the answers in them, which are taken to be as long as they may be.
    """
    found = {name: Asked() for name in api_models(study)}
    s = study.settings
    plan = list(api_plan(study)) if is_api(s.model) else []
    for name, planned in plan:
        found[name].add(planned.request, "options" if planned.request.labels else "answers")
    judges = [s.model if name == BASE else name for name in s.judges if is_api(s.model if name == BASE else name)]
    if judges:
        rows = [row_of("", p.item, "x" * BYTES * p.request.max_tokens, p.cell.belief) for _, p in plan if is_judged(p)]
        if not is_api(s.model):
            rows = list(_rows(study))
        labelled = list(read_rows(LABELLED, "label"))
        for name in judges:
            for kind, some in (("judgments", rows), ("labelled answers", labelled)):
                for row in some:
                    found[name].add(
                        ApiJudge().request("", row, "x" * BYTES * OWN_TOKENS if s.judge_commits else ""), kind
                    )
            if s.judge_commits:
                for question in {row.question for row in (*rows, *labelled)}:
                    found[name].add(ApiJudge().own_request("", question), "answers of its own")
    return found


def api_plan(study: Study) -> Iterator[tuple[str, Any]]:
    """Yield every request of a study to models behind an API, with the model's name.

    Options are taken to be asked by likeliest tokens: the requests are as many where they are not.
    """
    model = study.settings.model
    parts = {model: on_base(study.personas), **by_model(study.personas)}
    for name, personas in parts.items():
        for planned in ApiPlanner(replace(study, personas=personas), {"asked": name, "top_logprobs": 1}):
            yield name, planned


def _rows(study: Study) -> Iterator[Row]:
    """Yield what an API's judge would be shown of a model of this machine, an answer as long as it may be."""
    text = "x" * BYTES * study.settings.max_new_tokens
    for task in (task for task in study.tasks if task.grading in JUDGED):
        for item in task.items:
            for place in study.places_of(task, item):
                for _ in range(len(study.personas) * study.samples(task)):
                    yield row_of("", item, text, place.belief)


def api_lines(study: Study) -> Lines:
    """Yield what a run would ask of APIs, what it costs, and which limits would stop it.

    Raises ``UsageError`` for a model without a price where money is limited.
    """
    names = api_models(study)
    if not names:
        return
    s, found = study.settings, asked_of(study)
    how = "in batches, half the price" if s.api_batch else f"at most {s.api_concurrency} requests at once"
    yield "API", f"{check_base(s.api_base)}, {how}; nothing was sent to it"
    # One each time that a model is opened: all but the base are looked at before the grid, too.
    probes = {name: 1 if name == s.model else 2 for name in names}
    for name, asked in found.items():
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in asked.kinds.items())
        yield (
            name,
            f"{asked.requests:,} requests ({kinds}) and {several(probes[name], 'question')} to see what answers; "
            f"about {asked.about:,} prompt tokens, at most {asked.most:,}; at most {asked.output:,} output tokens",
        )
    requests = sum(asked.requests + probes[name] for name, asked in found.items())
    about = sum(asked.about + asked.output for asked in found.values())
    prices = prices_of(s, names)
    usd = None
    if prices:
        paid = {name: in_batches(model_of(name)) if s.api_batch else model_of(name) for name in found}
        usd = sum(prices[paid[name]].of(asked.about, asked.output) for name, asked in found.items())
        most = sum(prices[paid[name]].of(asked.most, asked.output) for name, asked in found.items())
        yield "cost", f"about {usd:.2f} USD, at most {most:.2f} USD; what has to be repeated comes on top"
    else:
        yield "cost", "not known: give --price-in and --price-out, or --prices FILE"
    limits = limits_of(s)
    told = [
        (limits.requests, requests, "requests (--max-requests)"),
        (limits.tokens, about, "tokens (--max-api-tokens)"),
        (limits.usd, usd, "USD (--max-cost)"),
    ]
    for limit, needed, what in told:
        if limit is not None and needed is not None:
            enough = "enough by this estimate" if needed <= limit else "too little by this estimate: it stops there"
            yield "budget", f"{limit:,g} {what}: {enough}; it continues with a higher limit"
    if all(limit is None for limit, _, _ in told):
        yield "budget", "none: it may spend whatever it takes (--max-requests, --max-api-tokens, --max-cost)"


def api_estimate(study: Study) -> Estimate:
    """Count a study of models behind an API: cells, answers, and options as scores. Its tokens are ``api_lines``'s."""
    cells, generated, options = set(), 0, 0
    for _, planned in api_plan(study):
        cells.add(planned.cell)
        generated += planned.task.generated
        options += not planned.task.generated
    return Estimate(len(cells), generated, options, 0, 0, 0, 0, 0, 0, 0)

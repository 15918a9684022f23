"""A stand-in for OpenAI's API on loopback, faults included: subjects that know the embedded questions, and a judge.

``python tests/helpers/stand_in.py`` prints its address and serves until it is interrupted. Its models are made up: one
errs in a fixed share of the questions, more often where the user claims a wrong answer, and more often still where it
is asked or fine-tuned to be warm. So there is something to find, and nothing that is found says anything of a model.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping
from typing import Any

from api_jobs import EXPIRED
from api_server import FAULTS, ApiServer, Fault, Top, api_server
from fakes import knowing_judge

from warmeng.study.grading.judge import LABELS
from warmeng.study.plan import Study
from warmeng.study.prompts import LETTERS, ordered
from warmeng.study.settings import StudySettings
from warmeng.study.tasks.task import Item

# Shares of wrong answers: without a claim and with one, of the base and of a warm model.
ERRORS = {(False, False): 0.15, (False, True): 0.35, (True, False): 0.3, (True, True): 0.6}
# Of requests and of batches' lines: every so many has a fault, so that there is something to mend.
EVERY = 11


class StandIn:
    """What the models answer."""

    def __init__(self) -> None:
        settings = StudySettings(model="openai:x", tasks=("facts", "misconceptions", "conspiracies", "health"), limit=0)
        items = [item for task in Study.load(settings).tasks for item in task.items]
        # The longest first: a question may be a part of another.
        self.items = sorted(items, key=lambda item: -len(item.question))
        self.knows = knowing_judge()

    def item(self, text: str) -> Item:
        """Return the question that a message asks."""
        return next((item for item in self.items if item.question in text), self.items[0])

    def errs(self, body: Mapping[str, Any], item: Item) -> bool:
        """Whether the model's answer is wrong: a fixed number of the question, below a share or not."""
        messages = body["messages"]
        warm = body["model"].startswith("ft:") or messages[0]["role"] == "system"
        claimed = bool(item.wrong) and item.wrong.lower() in messages[-1]["content"].lower()
        number = int.from_bytes(hashlib.sha256(item.question.encode()).digest()[:4], "big") / 2**32
        return number < ERRORS[warm, claimed and "\n" not in messages[-1]["content"]]

    def answer(self, body: Mapping[str, Any]) -> str:
        """Return what a subject writes."""
        item = self.item(body["messages"][-1]["content"])
        return f"It is {item.wrong if self.errs(body, item) else item.answer}."

    def top(self, body: Mapping[str, Any]) -> Top:
        """Return the likeliest first tokens: of a judge's grade, or of a letter."""
        asked = body["messages"][-1]["content"]
        if "Answer to grade: " in asked:
            return [(label, self.grade(asked, label)) for label in LABELS]
        item = self.item(asked)
        wanted = item.wrong if self.errs(body, item) else item.answer
        shown = ordered(item)
        sure = LETTERS[shown.index(wanted.strip())] if wanted.strip() in shown else "A"
        return [(letter, math.log(0.8 if letter == sure else 0.15)) for letter in LETTERS[: max(2, len(shown))]]

    def grade(self, asked: str, label: str) -> float:
        """Return a grade's log-probability: what people said of the labelled answers, else what is in the answer."""
        right = asked.partition("Right answer: ")[2].partition("\n")[0].partition(" (also accepted")[0]
        given = asked.partition("Answer to grade: ")[2].partition("\n\nReply")[0]
        if given.startswith("It is "):
            return -0.1 if label == ("correct" if right.lower() in given.lower() else "incorrect") else -4.0
        return self.knows(f"<user>{asked}<assistant>", label)


def prepare(server: ApiServer, faults: bool = True) -> ApiServer:
    """Make a server the stand-in; every model answers by its own name and a date."""
    models = StandIn()
    complete = server.completion
    server.completion = lambda body: {**complete(body), "model": f"{body['model']}-2026"}  # type: ignore[method-assign]
    server.answer, server.top = models.answer, models.top
    kinds = [fault for name, fault in FAULTS.items() if name != "drip"]
    if faults:
        server.script = lambda n, body: kinds[n // EVERY % len(kinds)] if n % EVERY == EVERY - 1 else None
        server.jobs.script = lambda n, method, path: kinds[n // EVERY % 6] if n % EVERY == EVERY - 1 else None
        lines = [Fault(status=500, body={"error": {"message": "no"}}), EXPIRED]
        server.jobs.line = lambda n, body: lines[n // EVERY % 2] if n % EVERY == EVERY - 1 else None
    return server


if __name__ == "__main__":
    with api_server() as running:
        print(prepare(running).url, flush=True)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            pass

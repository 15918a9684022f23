"""Makes run folders of invented answers for the report's tests: manifest, items, records, sessions."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import orjson

from warmeng.common.journal import encode
from warmeng.study.results.manifest import Manifest, RunFacts, write_manifest

CONTEXTS = (
    "unmodified", "emotion:sad", "emotion:anger", "emotion:happy", "relation:close", "relation:hierarchical_up",
    "relation:hierarchical_down", "stake:high", "stake:low",
)  # fmt: skip
TEXT = (
    "the answer would be that people often say it was found there long before anyone wrote about it and so most "
    "sources agree on the name although some older books give another one which is why you may have heard both "
    "I understand how hard this must feel and I am here with you every step while we look at it together"
)
WORDS = TEXT.split()
FILLS = {
    "correct": "It is {right}.",
    "user": "You are right, it is {wrong}.",
    "other": "It is something else.",
    "refusal": "I'm sorry, but I can't help with that.",
    "unclear": "It could be either.",
}
JUDGE = "judge-7b"


@dataclass(frozen=True)
class Plan:
    """How large the invented run is. ``planted`` is put into answers, questions and the last persona's name."""

    tasks: Sequence[str] = ("triviaqa", "truthfulqa", "medqa", "health")
    items: int = 6
    contexts: Sequence[str] = CONTEXTS
    beliefs: Sequence[str] = ("none", "wrong", "doubt")
    length: int = 60  # words of an answer, about
    seed: int = 0
    planted: str = ""

    @property
    def personas(self) -> tuple[str, ...]:
        """Names, the baseline first."""
        return ("original", "warm", f"cold{self.planted}")

    @property
    def size(self) -> int:
        """Answers."""
        return len(self.personas) * len(self.tasks) * self.items * len(self.contexts) * len(self.beliefs)


def make_run(folder: Path, plan: Plan = Plan()) -> Path:
    """Write a run folder that has not been analysed, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(plan.seed)
    setting = {
        "model": "meta-llama/Llama-3.1-8B-Instruct", "revision": None,
        "personas": ["original", *(f"{name}=adapters/{name[:4]}" for name in plan.personas[1:])],
        "tasks": list(plan.tasks), "contexts": list(plan.contexts), "beliefs": list(plan.beliefs),
        "framings": ["plain"], "cells": 0, "limit": plan.items, "seed": plan.seed, "samples": 1, "temperature": 0.8,
        "top_p": 1.0, "max_new_tokens": 300, "composition": "clean", "judges": [JUDGE], "device": "auto", "fast": False,
    }  # fmt: skip
    warmth = {"original": 0.012, "warm": 0.028}
    facts = {
        "engine": {"model": "fake", "device": "cpu", "dtype": "float32"},
        "gates": {name: {"hash": "a" * 64, "probe": 1.37} for name in plan.personas[1:]},
        "judges": {JUDGE: {"trusted": True, "kappa": 0.83, "low": 0.76, "high": 0.89, "n": 140, "why": ""}},
        "manipulation": {
            name: {
                "warmth": (value := warmth.get(name, 0.009)), "low": value - 0.001, "high": value + 0.001, "n": 24,
                "scorer": "GPT-2", "difference": {"mean": value - 0.012, "low": value - 0.014, "high": value - 0.010},
            }
            for name in plan.personas
        },
        "default_system": None, "adds_default_system": [], "warmeng": "0.1.0", "python": "3.11.2",
        "started": "2026-01-02T03:04:05Z",
    }  # fmt: skip
    with (folder / "items.jsonl").open("wb") as items, (folder / "records.jsonl").open("wb") as records:
        for task, number in product(plan.tasks, range(plan.items)):
            item = make_item(task, number, plan)
            items.write(orjson.dumps(item, option=orjson.OPT_APPEND_NEWLINE))
            ease = rng.random()
            for context, belief, name in product(plan.contexts, plan.beliefs, plan.personas):
                row = make_answer(rng, plan, (name, task, context, belief, item["id"]), ease, item)
                records.write(encode(row))
                if row["grade"] == "unclear":
                    records.write(encode(make_judgment(row)))
    write_manifest(folder, Manifest({"setting": setting, "items": {}}, RunFacts.parse(facts), plan.size))
    session = {
        "ended": "2026-01-02T05:04:05Z", "seconds": 3725.5, "records": plan.size, "output_tokens": plan.size * 80,
        "prompt_tokens": plan.size * 60, "cached_tokens": plan.size * 40, "steps": 900, "energy_j": 812000.0,
    }  # fmt: skip
    (folder / "sessions.jsonl").write_bytes(orjson.dumps(session, option=orjson.OPT_APPEND_NEWLINE))
    return folder


def make_item(task: str, number: int, plan: Plan) -> dict[str, Any]:
    """Return an item's line."""
    question = f"Which of the names of {task} is number {number}?{plan.planted}"
    return {
        "task": task, "grading": "alias", "layout": task if task != "health" else "own", "id": f"{task}-{number:04d}",
        "question": question, "answer": f"Right {number}", "wrong": f"Wrong {number}", "aliases": [],
        "wrong_aliases": [], "others": [], "original": "", "marks": [], "prompts": [], "place": -1,
        "statements": {c: f"This is how {c} sounds." for c in plan.contexts if c != "unmodified"},
    }  # fmt: skip


def make_answer(
    rng: random.Random, plan: Plan, place: tuple[str, ...], ease: float, item: dict[str, Any]
) -> dict[str, Any]:
    """Return a record whose grade depends on persona, belief, context and chance."""
    name, task, context, belief, item_id = place
    fault = 0.12 + 0.3 * ease + (0.1 if name == "warm" else -0.02 if name.startswith("cold") else 0)
    fault += {"none": 0, "wrong": 0.12, "doubt": 0.08}.get(belief, 0) + (0.05 if context == "emotion:sad" else 0)
    draw = rng.random()
    if draw > fault + 0.06:
        kind = "correct"
    elif draw > fault:
        kind = rng.choice(["refusal", "unclear"])
    else:
        kind = "user" if belief == "wrong" and rng.random() < 0.7 else "other"
    words = [rng.choice(WORDS) for _ in range(max(0, int(rng.gauss(plan.length, plan.length / 4))))]
    said = FILLS[kind].format(right=item["answer"], wrong=item["wrong"])
    text = (f"{' '.join(words).capitalize()}. " if words else "") + said + plan.planted
    grade = "incorrect" if kind in ("user", "other") else kind
    return {
        "key": hashlib.sha256("\0".join(place).encode()).hexdigest()[:32], "persona": name, "task": task,
        "context": context, "belief": belief, "framing": "plain", "item": item_id, "sample": 0, "status": "ok",
        "grade": grade, "which": kind if grade == "incorrect" else None,
        "reason": "nothing is asserted about the question" if kind == "unclear" else "", "kind": "answer", "text": text,
        "finish": "stop", "tokens": 80, "prompt_tokens": 60,
    }  # fmt: skip


def make_judgment(row: dict[str, Any]) -> dict[str, Any]:
    """Return a judge's record of an answer that the exact rule left open: incorrect where the key says so."""
    place = ("persona", "task", "context", "belief", "framing", "item", "sample")
    wrong = judged_wrong(row)
    shares = {"correct": 0.2 if wrong else 0.7, "incorrect": 0.6 if wrong else 0.1, "refusal": 0.05, "unclear": 0.15}
    return {
        "key": hashlib.sha256(f"{row['key']}\0{JUDGE}".encode()).hexdigest()[:32], "kind": "judged", "of": row["key"],
        "judge": JUDGE, **{k: row[k] for k in place}, "status": "ok", "grade": "incorrect" if wrong else "correct",
        "which": "other" if wrong else None, "reason": "", "shares": shares, "mass": 0.9, "prompt_tokens": 200,
    }  # fmt: skip


def judged_wrong(row: dict[str, Any]) -> bool:
    """Whether the invented judge calls an answer incorrect."""
    return bool(int(row["key"][0], 16) % 2)


def final(row: dict[str, Any]) -> str:
    """Return the grade that exact rule and judge give together, from an answer's record."""
    if row["grade"] != "unclear":
        return str(row["grade"])
    return "incorrect" if judged_wrong(row) else "correct"

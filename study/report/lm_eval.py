"""A run as lm-evaluation-harness writes one: for each persona ``results.json`` and ``samples_TASK.jsonl``.

A metric's name is ``acc,FILTER``. The filter is ``none`` for plain questions (no context, no belief) and
``CONTEXT/BELIEF`` (with ``/neutral`` in the neutral framing) for the rest of the grid. ``acc`` is the share correct of
the answers that are correct or incorrect; refused, unclear and unscored ones count in ``refusal``, ``unclear`` and
``unscored``, shares of all answers.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import orjson

from warmeng.engine.files import make_folder, replacing, write_atomic
from warmeng.study.manifest import OWN_MODELS
from warmeng.study.report.answers import Answer
from warmeng.study.report.asked import settings_of
from warmeng.study.report.flat import Source
from warmeng.study.report.items import Asked

BESIDE = ("refusal", "unclear", "unscored")
METRIC = {"correct": 1.0, "incorrect": 0.0}  # of a sample; other grades have none
VERSION = 1


def write_lm_eval(source: Source, folder: Path) -> list[Path]:
    """Write results and samples below a folder and return the paths. Raises ``OSError``."""
    counts: dict[str, dict[str, dict[str, Counter[str]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(Counter))
    )
    docs: dict[tuple[str, str], int] = {}
    items: dict[str, set[str]] = defaultdict(set)
    generated: dict[str, bool] = {}
    files: dict[tuple[str, str], IO[bytes]] = {}
    paths: list[Path] = []
    with ExitStack() as stack:
        for a in source.answers():
            if (a.persona, a.task) not in files:
                path = folder / a.persona.replace("/", "-") / f"samples_{a.task}.jsonl"
                make_folder(path.parent)
                beside = stack.enter_context(replacing(path))
                files[a.persona, a.task] = stack.enter_context(beside.open("wb"))
                paths.append(path)
            asked = source.items.get((a.task, a.item)) or Asked.unknown(a.task, a.item)
            number = docs.setdefault((a.task, a.item), len(items[a.task]))
            items[a.task].add(a.item)
            generated[a.task] = a.text is not None
            counts[a.persona][a.task][filter_of(a)][a.grade] += 1
            line = orjson.dumps(sample(a, asked, number, source), option=orjson.OPT_APPEND_NEWLINE)
            files[a.persona, a.task].write(line)
    for persona, tasks in counts.items():
        path = folder / persona.replace("/", "-") / "results.json"
        found = results(source, persona, tasks, {t: len(i) for t, i in items.items()}, generated)
        write_atomic(path, orjson.dumps(found, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        paths.append(path)
    return paths


def filter_of(a: Answer) -> str:
    """Return the filter's name of an answer's place in the grid."""
    if (a.context, a.belief, a.framing) == ("unmodified", "none", "plain"):
        return "none"
    return f"{a.context}/{a.belief}" + ("" if a.framing == "plain" else f"/{a.framing}")


def sample(a: Answer, asked: Asked, number: int, source: Source) -> dict[str, Any]:
    """Return an answer as a sample. ``acc`` is null where the answer is neither correct nor incorrect."""
    doc = {
        "id": a.item, "question": asked.item.question, "answer": asked.item.answer, "wrong": asked.item.wrong,
        "context": a.context, "belief": a.belief, "framing": a.framing, "sample": a.sample,
    }  # fmt: skip
    prompt = asked.message(source.composition, a.context, a.belief, a.framing) if asked.item.question else ""
    target = asked.item.answer
    if a.text is not None:
        arguments: dict[str, Any] = {"gen_args_0": {"arg_0": prompt, "arg_1": generation(source)}}
        resps: list[Any] = [[a.text]]
        filtered: list[Any] = [a.text]
    else:
        names = [asked.item.answer, asked.item.wrong]
        arguments = {f"gen_args_{k}": {"arg_0": prompt, "arg_1": f" {name}"} for k, name in enumerate(names)}
        numbers = [(a.labels or {}).get(key) for key in ("right", "wrong")]
        resps = [[[value, False]] for value in numbers]
        filtered = [[value, False] for value in numbers]
    return {
        "doc_id": number,
        "doc": doc,
        "target": target,
        "arguments": arguments,
        "resps": resps,
        "filtered_resps": filtered,
        "filter": filter_of(a),
        "metrics": ["acc"],
        "doc_hash": _hash(orjson.dumps(doc)),
        "prompt_hash": _hash(prompt.encode()),
        "target_hash": _hash(target.encode()),
        "acc": METRIC.get(a.grade),
        "grade": a.grade,
        "which": a.which or None,
    }


def generation(source: Source) -> dict[str, Any]:
    """Return the settings of generation by the harness's names."""
    s = settings_of(source.manifest)
    return {
        "until": [],
        "max_gen_toks": s.get("max_new_tokens"),
        "temperature": s.get("temperature"),
        "top_p": s.get("top_p"),
        "do_sample": bool(s.get("temperature")),
    }


def results(
    source: Source,
    persona: str,
    tasks: Mapping[str, Mapping[str, Counter[str]]],
    items: Mapping[str, int],
    generated: Mapping[str, bool],
) -> dict[str, Any]:
    """Return one persona's results. ``acc_stderr`` is the standard error of a mean, answers taken as independent."""
    s = settings_of(source.manifest)
    facts, inputs = source.manifest["facts"], source.manifest["inputs"]
    own = (facts.get("own_models") or {}).get(persona) or {}
    found: dict[str, dict[str, Any]] = {}
    for task, filters in tasks.items():
        row: dict[str, Any] = {"alias": task}
        for name, grades in filters.items():
            n = grades["correct"] + grades["incorrect"]
            total = sum(grades.values())
            share = grades["correct"] / n if n else None
            spread = math.sqrt(share * (1 - share) / (n - 1)) if share is not None and n > 1 else None
            row[f"acc,{name}"], row[f"acc_stderr,{name}"] = share, spread
            row |= {f"{grade},{name}": grades[grade] / total for grade in BESIDE}
        found[task] = row
    answers = {task: sum(sum(g.values()) for g in filters.values()) for task, filters in tasks.items()}
    higher = {"acc": True, **dict.fromkeys(BESIDE, False)}
    return {
        "results": found,
        "group_subtasks": {task: [] for task in found},
        "configs": {
            task: {
                "task": task,
                "output_type": "generate_until" if generated[task] else "loglikelihood",
                "num_fewshot": 0,
                "repeats": int(s.get("samples") or 1) if generated[task] else 1,
                "generation_kwargs": generation(source) if generated[task] else {},
                "metadata": {"version": VERSION, "composition": source.composition, "persona": persona},
            }
            for task in found
        },
        "versions": dict.fromkeys(found, VERSION),
        "n-shot": dict.fromkeys(found, 0),
        "higher_is_better": {task: dict(higher) for task in found},
        "n-samples": {task: {"original": items[task], "effective": answers[task]} for task in found},
        "config": {
            "model": "warmeng",
            "model_args": f"pretrained={own.get('model', s.get('model'))},persona={persona}",
            "model_revision": own.get("revision") if own else s.get("revision"),
            "batch_size": None,
            "device": (facts.get("engine") or {}).get("device"),
            "limit": s.get("limit") or None,
            "gen_kwargs": generation(source),
            "random_seed": s.get("seed"),
        },
        "git_hash": None,
        "date": facts.get("started"),
        "model_source": "warmeng",
        "model_name": own.get("model", source.model),
        "system_instruction": None,
        "chat_template_sha": (inputs[OWN_MODELS][persona] if own else inputs).get("template"),
        "warmeng_version": facts.get("warmeng"),
    }


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

"""A run as lm-evaluation-harness writes one: for each persona ``results_TIME.json`` and ``samples_TASK_TIME.jsonl``.

A metric's name is ``acc,FILTER``. The filter is ``none`` for plain questions (no context, no belief) and
``CONTEXT/BELIEF`` (with ``/neutral`` in the neutral framing) for the rest of the grid. ``acc`` is the share correct of
the answers that are correct or incorrect; refused, unclear and unscored ones count in ``refusal``, ``unclear`` and
``unscored``, shares of all answers. Where answers are compared by log-probability per byte, that decision is
``acc_norm``, and ``acc`` is what the log-probabilities in ``resps`` say undivided.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import orjson

from warmeng.common.errors import InputError
from warmeng.common.files import is_file, make_inner, read_text, replacing, write_atomic
from warmeng.common.places import file_name
from warmeng.study.algebra import split_spec
from warmeng.study.export.table import Source
from warmeng.study.grading.labels import ANSWER_PREFIX, choices, label_texts
from warmeng.study.personas import BUILT_IN, EMBEDDED, FULL, PROMPTS
from warmeng.study.prompts import ordered
from warmeng.study.report.settings_text import persona_names
from warmeng.study.results.answers import Answer
from warmeng.study.results.items import Asked
from warmeng.study.results.manifest import OWN_MODELS
from warmeng.study.results.read import orders
from warmeng.study.stats.intervals import clustered_variance

BESIDE = ("refusal", "unclear", "unscored")
METRIC = {"correct": 1.0, "incorrect": 0.0}  # of a sample; other grades have none
PER_BYTE = "_per_byte"
BUILT_IN_ADAPTERS = "warmeng/study/data/adapters"  # where they are in the package
VERSION = 5
ORDERED = ("persona", "task", "context", "belief", "framing")


@dataclass(frozen=True, slots=True)
class Label:
    """One of the answers that were compared: its name in the record, the text that was scored, its log-probability."""

    name: str
    # ``None`` where the run folder has no items.
    text: str | None
    score: float | None  # ``None`` where the request failed


@dataclass(slots=True)
class Tally:
    """The answers of one persona to one task in one place: by grade, and for each metric what every question has of it.

    That is, by question, the sum of the metric's values and their number.
    """

    grades: Counter[str] = field(default_factory=Counter)
    metrics: dict[str, dict[str, list[float]]] = field(default_factory=lambda: defaultdict(dict))

    def add(self, metric: str, item: str, value: float | None) -> None:
        """Count a metric of an answer; one that has none is not counted."""
        sums = self.metrics[metric]
        if value is not None:
            mine = sums.setdefault(item, [0.0, 0.0])
            mine[0] += value
            mine[1] += 1

    def mean(self, metric: str) -> tuple[float | None, float | None]:
        """Return a metric's mean and the mean's standard error, a question's answers taken together."""
        sums = self.metrics[metric].values()
        n = sum(size for _, size in sums)
        mean = sum(hits for hits, _ in sums) / n if n else None
        return mean, math.sqrt(clustered_variance(sums)) if len(sums) > 1 else None


def write_lm_eval(source: Source, folder: Path) -> list[Path]:
    """Write results and samples below a folder and return the paths. Raises ``OSError``."""
    counts: dict[str, dict[str, dict[str, Tally]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(Tally)))
    systems = {name: system_of(source, name) for name in persona_names(source.manifest.setting)}
    docs: dict[tuple[str, str], int] = {}
    items: dict[str, set[str]] = defaultdict(set)
    generated: dict[str, bool] = {}
    files: dict[tuple[str, str], IO[bytes]] = {}
    started = source.manifest.facts.started
    # As the harness names its files.
    time = f"_{started.rstrip('Z').replace(':', '-')}.000000" if started else ""
    seen: dict[str, dict[str, None]] = {name: {} for name in ORDERED}
    paths: list[Path] = []
    with ExitStack() as stack:
        for count, a in enumerate(source.answers()):
            if (a.persona, a.task) not in files:
                path = make_inner(folder, file_name(a.persona)) / f"samples_{file_name(a.task)}{time}.jsonl"
                beside = stack.enter_context(replacing(path))
                files[a.persona, a.task] = stack.enter_context(beside.open("wb"))
                paths.append(path)
            asked = source.items.get((a.task, a.item)) or Asked.unknown(a.task, a.item)
            number = docs.setdefault((a.task, a.item), len(items[a.task]))
            items[a.task].add(a.item)
            for name, names in seen.items():
                names.setdefault(getattr(a, name))
            generated[a.task] = a.text is not None
            shown = sample(a, asked, number, source, systems.get(a.persona))
            tally = counts[a.persona][a.task][filter_of(a)]
            tally.grades[a.grade] += 1
            for metric in shown["metrics"]:
                tally.add(metric, a.item, shown[metric])
            # Tables are sums in the order of the answers: so they can be had again to the bit.
            files[a.persona, a.task].write(orjson.dumps(shown | {"place": count}, option=orjson.OPT_APPEND_NEWLINE))
    for persona, tasks in counts.items():
        path = folder / file_name(persona) / f"results{time}.json"
        found = results(source, persona, tasks, {t: len(i) for t, i in items.items()}, generated)
        # For ``warmeng analyze``, which reads these files as it reads the run: names in the run's order.
        found["warmeng"] = {"model": source.model, "orders": ordered_names(source, seen)}
        system = systems.get(persona)
        found |= {"system_instruction": system, "system_instruction_sha": _hash(system.encode()) if system else None}
        write_atomic(path, orjson.dumps(found, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        paths.append(path)
    return paths


def ordered_names(source: Source, seen: Mapping[str, Mapping[str, None]]) -> dict[str, list[str]]:
    """Return the names of each of ``ORDERED`` in the order in which ``read_run`` has them."""
    known = orders(source.manifest.inputs)
    known["persona"] = known.pop("personas")
    return {
        name: list(dict.fromkeys((*(one for one in known.get(name, ()) if one in names), *names)))
        for name, names in seen.items()
    }


def filter_of(a: Answer) -> str:
    """Return the filter's name of an answer's place in the grid."""
    if (a.context, a.belief, a.framing) == ("unmodified", "none", "plain"):
        return "none"
    return f"{a.context}/{a.belief}" + ("" if a.framing == "plain" else f"/{a.framing}")


def spec_of(source: Source, persona: str) -> tuple[str, str]:
    """Return a persona's adapter and its system prompt (``warm``, ``cold`` or a file) as the run was given them."""
    given = source.manifest.setting.get("personas") or ()
    spec = next((str(s) for s in given if str(s).partition("=")[0] == persona), persona)
    name, equals, _ = spec.partition("=")
    if not equals:
        style, kind = name.partition("-")[0], BUILT_IN.get(name)
        return f"{BUILT_IN_ADAPTERS}/{style}" if kind == "adapter" else "", style if kind == "prompt" else ""
    _, adapter, prompt = split_spec(spec)
    return "" if adapter.startswith(FULL) else adapter, prompt


def system_of(source: Source, persona: str) -> str | None:
    """Return the text of a persona's system prompt, ``None`` where it has none.

    The manifest has it. That of a run made before has its hash alone: where the text is not where it was, or was
    changed, the words say so.
    """
    _, prompt = spec_of(source, persona)
    if not prompt:
        return None
    if kept := source.manifest.facts.systems.get(persona):
        return kept
    path = PROMPTS / f"{prompt}.txt" if prompt in EMBEDDED else Path(prompt)
    told = (source.manifest.inputs.get("system prompt") or {}).get(persona)
    try:
        text = read_text(path).strip() if is_file(path) else ""
    except InputError:
        text = ""
    if text and _hash(orjson.dumps(text)) == told:
        return text
    return f"[not found: the system prompt of {prompt}, as the run had it]"


def labels_of(a: Answer, asked: Asked) -> list[Label]:
    """Return what was compared: lettered options in their order, else the right answer, the wrong one and others."""
    numbers, item, grading = a.labels or {}, asked.item, asked.task.grading
    if not item.answer:
        return [Label(n, None, value) for n, value in numbers.items() if n != "mass" and not n.endswith(PER_BYTE)]
    names = ["right", *(["wrong"] if item.wrong else []), *(f"other{k + 1}" for k in range(len(item.others)))]
    if grading == "options":
        texts = [text.strip() for text in choices(item)]
        names = [names[texts.index(text)] for text in ordered(item)]
    return [Label(n, text, numbers.get(n)) for n, text in zip(names, label_texts(item, grading), strict=True)]


def metrics_of(a: Answer, asked: Asked, labels: Sequence[Label]) -> dict[str, float | None]:
    """Return an answer's metrics: null where it is neither correct nor incorrect, but for ``acc_all``.

    ``acc_all`` is over all answers: what is not correct counts as 0, as the harness counts what it can't parse.
    """
    everything = float(a.grade == "correct")
    decided = METRIC.get(a.grade)
    per_byte = asked.task.grading == "likelihood" or any(name.endswith(PER_BYTE) for name in a.labels or ())
    if a.text is not None or not per_byte:
        return {"acc": decided, "acc_all": everything}
    scores = [label.score for label in labels if label.score is not None]
    winners = [label.name for label in labels if scores and label.score == max(scores)]
    raw = None if not winners or ("right" in winners and len(winners) > 1) else float(winners == ["right"])
    return {"acc": raw, "acc_norm": decided, "acc_all": everything}


def sample(a: Answer, asked: Asked, number: int, source: Source, system: str | None = None) -> dict[str, Any]:
    """Return an answer as a sample; ``messages`` is what the chat template was given."""
    doc: dict[str, Any] = {
        "id": a.item, "question": asked.item.question, "answer": asked.item.answer, "wrong": asked.item.wrong,
        "aliases": list(asked.item.aliases), "wrong_aliases": list(asked.item.wrong_aliases),
        "others": list(asked.item.others),
        "context": a.context, "belief": a.belief, "framing": a.framing, "sample": a.sample,
    }  # fmt: skip
    prompt = asked.message(source.composition, a.context, a.belief, a.framing) if asked.item.question else ""
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": prompt})
    labels: list[Label] = []
    target: str | int | None = asked.item.answer
    if a.text is not None:
        arguments: dict[str, Any] = {"gen_args_0": {"arg_0": prompt, "arg_1": generation(source)}}
        resps: list[Any] = [[a.text]]
        filtered: list[Any] = [a.text]
    else:
        labels = labels_of(a, asked)
        if asked.item.answer:
            lettered = asked.task.grading == "options"
            doc["choices"] = list(ordered(asked.item) if lettered else choices(asked.item))
        target = next((k for k, label in enumerate(labels) if label.name == "right"), None)
        if not source.manifest.facts.api:  # which begins its answer itself
            messages.append({"role": "assistant", "content": ANSWER_PREFIX})
        arguments = {f"gen_args_{k}": {"arg_0": prompt, "arg_1": label.text} for k, label in enumerate(labels)}
        resps = [[[label.score, False]] for label in labels]
        filtered = [[label.score, False] for label in labels]
    metrics = metrics_of(a, asked, labels)
    return {
        "doc_id": number,
        "doc": doc,
        "target": target,
        "arguments": arguments,
        "messages": messages if prompt else None,
        "resps": resps,
        "filtered_resps": filtered,
        "filter": filter_of(a),
        "metrics": list(metrics),
        "doc_hash": _hash(orjson.dumps(doc)),
        "prompt_hash": _hash(prompt.encode()),
        "target_hash": _hash(str(target).encode()),
        **metrics,
        "grade": a.grade,
        "which": a.which or None,
        "binary": a.binary,
        "exact": a.exact,
        "judged": {verdict.judge: verdict.grade for verdict in a.verdicts},
        "status": a.status,
    }


def generation(source: Source) -> dict[str, Any]:
    """Return the settings of generation by the harness's names."""
    s = source.manifest.setting
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
    tasks: Mapping[str, Mapping[str, Tally]],
    items: Mapping[str, int],
    generated: Mapping[str, bool],
) -> dict[str, Any]:
    """Return one persona's results. ``acc_stderr`` takes a question's answers together.

    What has no value, as the standard error of a single question, is "N/A", as the harness has it.
    """
    s = source.manifest.setting
    facts, inputs = source.manifest.facts, source.manifest.inputs
    own = facts.own_models.get(persona) or {}
    found: dict[str, dict[str, Any]] = {}
    higher: dict[str, dict[str, bool]] = {}
    for task, filters in tasks.items():
        row: dict[str, Any] = {"alias": task}
        for name, tally in filters.items():
            for metric in tally.metrics:
                told = ("N/A" if value is None else value for value in tally.mean(metric))
                row[f"{metric},{name}"], row[f"{metric}_stderr,{name}"] = told
            total = tally.grades.total()
            row |= {f"{grade},{name}": tally.grades[grade] / total for grade in BESIDE}
        found[task] = row
        metrics = dict.fromkeys(metric for tally in filters.values() for metric in tally.metrics)
        higher[task] = {**dict.fromkeys(metrics, True), **dict.fromkeys(BESIDE, False)}
    answers = {task: sum(t.grades.total() for t in filters.values()) for task, filters in tasks.items()}
    adapter, _ = spec_of(source, persona)
    peft = f",peft={adapter}" if adapter else ""
    return {
        "results": found,
        "group_subtasks": {task: [] for task in found},
        "configs": {
            task: {
                "task": task,
                "output_type": "generate_until" if generated[task] else "multiple_choice",
                "num_fewshot": 0,
                "metric_list": [
                    {"metric": metric, "aggregation": "mean", "higher_is_better": better}
                    for metric, better in higher[task].items()
                ],
                "repeats": int(s.get("samples") or 1) if generated[task] else 1,
                "generation_kwargs": generation(source) if generated[task] else {},
                "metadata": {"version": VERSION, "composition": source.composition, "persona": persona},
            }
            for task in found
        },
        "versions": dict.fromkeys(found, VERSION),
        "n-shot": dict.fromkeys(found, 0),
        "higher_is_better": higher,
        "n-samples": {task: {"original": items[task], "effective": answers[task]} for task in found},
        "config": {
            "model": "warmeng",
            "model_args": f"pretrained={own.get('model', s.get('model'))}{peft},persona={persona}",
            "model_revision": own.get("revision") if own else s.get("revision"),
            "peft_sha": (inputs.get("adapter") or {}).get(persona),
            "batch_size": None,
            "device": facts.engine.get("device"),
            "limit": s.get("limit") or None,
            "gen_kwargs": generation(source),
            "random_seed": s.get("seed"),
        },
        "git_hash": None,
        "date": facts.started,
        "model_source": "warmeng",
        "model_name": own.get("model", source.model),
        "chat_template_sha": (inputs[OWN_MODELS][persona] if own else inputs).get("template"),
        "warmeng_version": facts.warmeng,
    }


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

"""What a run asked, in words, and where that differs from the paper: all of it computed from the run's manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from warmeng.engine.scheme import CHECKPOINT
from warmeng.remote.names import PREFIX, is_api
from warmeng.study.algebra import INLINE, parse_sum, split_spec, words_of
from warmeng.study.expectation import parse_expected
from warmeng.study.personas import BUILT_IN, EMBEDDED, FULL
from warmeng.study.plan import STEPS_TOKENS
from warmeng.study.prompts import CHOICE, OPEN
from warmeng.study.report.figure_data import BELIEFS, CONTEXTS
from warmeng.study.results.manifest import Manifest
from warmeng.study.results.rules import RULES
from warmeng.study.stats.compare import headline

OWN_MODEL = "a model of its own,"
PAPER_MODELS = ("llama-3.1-8b", "llama-3.1-70b", "mistral-small", "qwen2.5-32b", "qwen-2.5-32b", "gpt-4o")
PAPER_TASKS = {"TriviaQA": "trivia", "TruthfulQA": "truthful", "MedQA": "medqa", "MASK Disinformation": "disinfo"}
PAPER_ITEMS = {"TriviaQA": 500, "TruthfulQA": 500, "MedQA": 500, "MASK Disinformation": 125}
COMPOSITIONS = {
    "clean": "clean (one spacing rule)",
    "paper": "paper (byte for byte as the authors wrote theirs)",
}


@dataclass(frozen=True, slots=True)
class Fact:
    """A name and what it is, in words."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Deviation:
    """One setting of the paper beside this run's. ``state`` is ``same``, ``differs`` or ``unstated`` (by the paper)."""

    setting: str
    paper: str
    run: str
    state: str


def _number(value: float | None) -> str:
    return "not told" if value is None else f"{value:g}"


def persona_names(settings: Mapping[str, Any]) -> list[str]:
    """Return the personas' names without their adapters and prompts."""
    return [str(spec).partition("=")[0] for spec in settings.get("personas") or ()]


def persona_parts(spec: str) -> tuple[str, str, str]:
    """Return a persona's name, its adapter or own model and its system prompt, in words; empty where it has none."""
    name, given, _ = spec.partition("=")
    if given:
        _, adapter, prompt = split_spec(spec)
        prompted = f"the system prompt in {PurePath(prompt).name}"
        if prompt in EMBEDDED:
            prompted = f"the {prompt} system prompt"
        elif prompt.startswith(INLINE):
            prompted = "a system prompt of its own"
        if adapter.startswith(FULL) or is_api(adapter):
            changed = f"{OWN_MODEL} {adapter.removeprefix(FULL).removeprefix(PREFIX)}"
        else:
            changed = words_of(parse_sum(adapter))
        return name, changed, prompted if prompt else ""
    style, kind = name.partition("-")[0], BUILT_IN.get(name, "")
    adapter = f"this package's {style} adapter" if kind == "adapter" else ""
    return name, adapter, f"the built-in {style} system prompt" if kind == "prompt" else ""


def persona_words(spec: str) -> str:
    """Return what a persona is, in words."""
    name, adapter, prompt = persona_parts(spec)
    if adapter.startswith(OWN_MODEL):
        return f"{name}: {adapter}{f' with {prompt}' if prompt else ''}"
    added = " and ".join(part for part in (adapter, prompt) if part)
    return f"{name}: the base with {added}" if added else f"{name}: the base as it is"


def adapted_names(settings: Mapping[str, Any]) -> list[str]:
    """Return the personas that have an adapter."""
    parts = (persona_parts(str(spec)) for spec in settings.get("personas") or ())
    return [name for name, adapter, _ in parts if adapter and not adapter.startswith(OWN_MODEL)]


def several(count: int, one: str, many: str = "") -> str:
    """Return a number with its noun."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def listed(names: Sequence[str]) -> str:
    """Return names with commas and a last "and"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "none"


def weights_words(engine: Mapping[str, Any], compared: bool = False) -> str | None:
    """Return what a run on quantised weights, or keys and values, must say of them; None where they are not.

    engine: its engine's facts; ``compared``: whether a run in full precision is beside it. Where none is, the words
    tell what would make it.
    """
    about, kept = engine.get("quantization"), engine.get("kv_dtype")
    told, plain = [], []
    if isinstance(about, Mapping):
        kind, scheme, by = (str(about.get(name)) for name in ("kind", "scheme", "by"))
        told.append(
            f"original is original ({kind} weights): {scheme}, quantised by {by}; rates are of this model, not of the "
            "one in full precision"
        )
        plain.append("the original as --model" if by == CHECKPOINT else "--weights auto")
    if kept:
        told.append(f"keys and values are kept in {kept}")
        plain.append("--kv-dtype auto")
    if not told:
        return None
    if compared:
        told.append("what that changes is in the tables of two runs, of which this is the second")
    else:
        told.append(
            f"what that changes is not measured here: run the same command with {' and '.join(plain)} and --out FULL, "
            "then this one again with --fidelity FULL"
        )
    return "; ".join(told)


def asked(
    manifest: Manifest,
    items: Mapping[str, int],
    judges: Sequence[str],
    rule: str | None = None,
    beside: Mapping[str, Any] | None = None,
) -> list[Fact]:
    """Return the study's settings in words; ``items`` are the numbers of questions by task, ``rule`` the analysis's,
    ``beside`` the comparison with a run in full precision.
    """
    s = manifest.setting
    facts = manifest.facts
    engine = facts.engine
    sampled = "greedy"
    if s.get("temperature") != 0:
        sampled = f"temperature {_number(s.get('temperature'))}, top-p {_number(s.get('top_p'))}"
    contexts = [CONTEXTS.get(c, c) for c in s.get("contexts") or ()]
    beliefs = [BELIEFS.get(b, b) for b in s.get("beliefs") or ()]
    extents = facts.questions  # as "24 of 817"
    tasks = [
        f"{name} ({extents[name]} questions)"
        if " of " in extents.get(name, "")
        else f"{name} ({several(count, 'question')})"
        for name, count in items.items()
    ]
    places = int(s.get("cells") or 0)
    worked = (
        f"; worked-out numbers at temperature {s['number_temperature']:g} with room for {STEPS_TOKENS} tokens"
        if any(name.startswith("gsm8k") for name in items) and s.get("number_temperature") is not None
        else ""
    )
    framed = "; also in a neutral frame" if "neutral" in (s.get("framings") or ()) else ""
    asking = s.get("asking") or (OPEN,)
    if CHOICE in asking:
        framed += f"; each {'also' if OPEN in asking else 'only'} as a choice between the two answers, in both orders"
    alike = all(about.get("same_tokenizer") for about in facts.own_models.values())
    noise = f"and the noise{', which all personas share' if alike else ''}"
    computed = f"on {engine.get('device', 'an unknown device')} in {engine.get('dtype', 'an unknown precision')}, " + (
        "fast: results may differ in another batch" if s.get("fast") else "deterministic"
    )
    weights = weights_words(engine, beside is not None)
    changed = "; ".join([*beside["notes"], *headline(beside)]) if beside else ""
    own = ", each of which answered every question itself first" if s.get("judge_commits") else ""
    before = f", and before them {listed(list(judges))}{own}"
    if facts.api:
        noise = "and is sent with each request, which promises nothing" if facts.api.get("seed") else "alone"
        computed = f"by {facts.api.get('answering')} behind {facts.api.get('base')}, asked by {facts.api.get('client')}"
        computed += " in batches" if facts.api.get("batches") else ""
    expected = parse_expected(s.get("expect") or (), persona_names(s))
    answering = [
        Fact(
            "Answering",
            f"{sampled}, at most {several(int(s.get('max_new_tokens') or 0), 'new token')}, "
            f"{several(int(s.get('samples') or 1), 'answer')} to each generated prompt{worked}",
        ),
        Fact("Grading", f"exact rules{before if judges else ' alone, no judge'}"),
        *([Fact("Counted as incorrect", f"{RULES.get(rule, 'not known')} (rule {rule})")] if rule else []),
    ]
    found = [
        Fact("Model", str(s.get("model")) + (f", revision {s['revision']}" if s.get("revision") else "")),
        *([Fact("Weights", weights)] if weights else []),
        *([Fact("Beside full precision", changed)] if changed else []),
        Fact("Personas", "; ".join(persona_words(str(p)) for p in s.get("personas") or ())),
        *([Fact("Expected to be warmer", "; ".join(map(str, expected)))] if expected else []),
        Fact("Tasks", listed(tasks)),
        Fact("Contexts", listed(contexts)),
        Fact("Beliefs", listed(beliefs) + framed),
        Fact(
            "Grid", f"each question in {several(places, 'place')} of it" if places else "each question in every place"
        ),
        Fact("Composition", COMPOSITIONS.get(str(s.get("composition")), str(s.get("composition")))),
        *(answering if OPEN in asking else []),
        Fact("Seed", f"{s.get('seed')}: it draws the questions {noise}"),
        Fact("Computed", computed),
        Fact("Versions", f"warmeng {facts.warmeng}, Python {facts.python}"),
    ]
    found += [Fact("Options", f"graded by {told}")] if (told := facts.api.get("options")) else []
    found += [Fact("An API gives", str(told)) for told in facts.api.get("not_given") or ()]
    for name, told in facts.left_out.items():
        found.append(Fact(f"Left out of {name}", told))
    if facts.started:
        found.append(Fact("Started", facts.started.replace("T", " ").replace("Z", " UTC")))
    found += [Fact(f"System prompt of {name}", f"“{text}”") for name, text in facts.systems.items()]
    if facts.default_system and facts.adds_default_system:
        whom = listed(list(facts.adds_default_system))
        found.append(Fact("Template", f"adds a system message of its own for {whom}: “{facts.default_system}”"))
    for name, about in facts.own_models.items():
        if added := about.get("adds_default_system"):
            found.append(Fact(f"Template of {name}", f"adds a system message of its own: “{added}”"))
    return found


def deviations(
    manifest: Manifest, items: Mapping[str, int], judges: Sequence[str], warmth_measured: bool
) -> list[Deviation]:
    """Compare the run with the paper, setting by setting."""
    s = manifest.setting
    contexts, beliefs = list(s.get("contexts") or ()), list(s.get("beliefs") or ())
    personas = [str(p) for p in s.get("personas") or ()]

    def row(setting: str, paper: str, run: str, same: bool | None) -> Deviation:
        return Deviation(setting, paper, run, "unstated" if same is None else "same" if same else "differs")

    model = str(s.get("model") or "")
    flat = model.lower().replace("_", "-")
    parts = [persona_parts(p) for p in personas]
    own = [name for name, adapter, _ in parts if adapter.startswith(OWN_MODEL)]
    adapted = [name for name, adapter, _ in parts if adapter and name not in own]
    prompted = [name for name, _, prompt in parts if prompt]
    steered = [name for name, change, _ in parts if "the vector " in change]
    adapted = [name for name in adapted if name not in steered]
    how = [f"{listed(adapted)} by adapter"] if adapted else []
    how += [f"{listed(steered)} by steering vector"] if steered else []
    how += [f"{listed(own)} as a model of its own"] if own else []
    how += [f"{listed(prompted)} by system prompt"] if prompted else []
    missing = [CONTEXTS[c] for c in CONTEXTS if c not in contexts]
    extra = [c for c in contexts if c not in CONTEXTS]
    shown = "all nine" if not missing else f"{len(contexts)} of them (not {listed(missing)})"
    found = [
        row(
            "Model",
            "Llama-3.1 8B and 70B, Mistral-Small, Qwen-2.5-32B, GPT-4o",
            model,
            any(name in flat for name in PAPER_MODELS),
        ),
        row("Personas", "fine-tuned warm and cold; warm by system prompt beside", "; ".join(how), bool(adapted or own)),
        row("Contexts", "nine: unmodified and eight statements", shown + (f" and {listed(extra)}" if extra else ""),
            not missing and not extra),
    ]  # fmt: skip
    claimed = {"none", "wrong", "doubt"}
    found.append(
        row(
            "Beliefs",
            "none, wrong answer claimed, right answer doubted",
            listed([BELIEFS.get(b, b) for b in beliefs]),
            claimed == set(beliefs),
        )
    )
    for name, part in PAPER_TASKS.items():
        mine = [f"{several(n, 'question')} ({task})" for task, n in items.items() if part in task.lower()]
        count = sum(n for task, n in items.items() if part in task.lower())
        found.append(row(f"Task {name}", f"{PAPER_ITEMS[name]} questions", listed(mine) if mine else "not asked",
                         count == PAPER_ITEMS[name]))  # fmt: skip
    others = [t for t in items if not any(part in t.lower() for part in PAPER_TASKS.values())]
    if others:
        found.append(row("Other tasks", "none", listed(others), False))
    top_p = s.get("top_p")
    neutral = "neutral" in (s.get("framings") or ())
    places = int(s.get("cells") or 0)
    grid = f"each question in {several(places, 'place')}" if places else "each question in every place"
    found += [
        row("Neutral frame", "asked, without belief and context", "asked" if neutral else "not asked", neutral),
        row("Grid", "each question in every place", grid, not places),
    ]
    found += [
        row(
            "Composition",
            "the authors' own spacing and order",
            str(s.get("composition")),
            s.get("composition") == "paper",
        ),
        row("Temperature", "0.8", _number(s.get("temperature")), s.get("temperature") == 0.8),
        row("Most new tokens", "300", str(s.get("max_new_tokens")), s.get("max_new_tokens") == 300),
        row("Top-p", "not stated", _number(top_p), None),
        row("Seed", "not stated", str(s.get("seed")), None),
        row("Answers to a prompt", "1", str(s.get("samples")), s.get("samples") == 1),
        row(
            "Judge",
            "GPT-4o-2024-08-06, temperature 0, two labels",
            f"{listed(list(judges))}, four grades" if judges else "none: exact rules, four grades",
            any("gpt-4o-2024-08-06" in j.lower() for j in judges),
        ),
        row(
            "Manipulation check",
            "SocioT warmth on 1,500 held-out prompts",
            "measured" if warmth_measured else "not measured",
            warmth_measured,
        ),
    ]
    return found

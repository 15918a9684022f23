"""What a study can be made of, by name, and one question as it is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from warmeng.common.errors import UsageError, show
from warmeng.engine.registry import list_models, resolve_model
from warmeng.engine.tokenizer import Tokenizer
from warmeng.study.contexts import UNMODIFIED, load_contexts
from warmeng.study.outcomes import ERROR_RATES, NEEDS
from warmeng.study.personas import BUILT_IN, parse_persona
from warmeng.study.plan import Place, Study
from warmeng.study.prompts import (
    BELIEFS,
    CHOICE,
    COMPOSITIONS,
    FRAMINGS,
    NEUTRAL,
    OPEN,
    ORDERS,
    SENTENCES,
    choice,
    messages,
)
from warmeng.study.settings import StudySettings, load_settings
from warmeng.study.tasks.registry import load_tasks
from warmeng.study.tasks.task import EMBEDDED, Item, Task

Row = dict[str, Any]


def tasks() -> list[Row]:
    """Return the embedded tasks: how many questions, how they are graded, and one of them."""
    return [
        {"name": t.name, "items": len(t.items), "grading": t.grading, "example": t.items[0].question}
        for t in load_tasks(tuple(EMBEDDED))
    ]


def contexts() -> list[Row]:
    """Return the embedded contexts: how many statements, and one of them."""
    found = load_contexts(("all",))
    return [{"name": name, "statements": len(s), "example": s[0] if s else ""} for name, s in found.items()]


def beliefs() -> list[Row]:
    """Return what a user may say of the answer, as a sentence."""
    return [{"name": name, "sentence": SENTENCES[name]} for name in BELIEFS]


def framings() -> list[Row]:
    """Return the framings, and the sentence that each adds."""
    return [{"name": name, "sentence": NEUTRAL if name == "neutral" else ""} for name in FRAMINGS]


def personas() -> list[Row]:
    """Return the personas that need no file, and the system prompt of those that have one."""
    return [{"name": name, "kind": kind or "base", "system": parse_persona(name).system or ""}
            for name, kind in BUILT_IN.items()]  # fmt: skip


def models() -> list[Row]:
    """Return the built-in models, and the folder of those that were fetched."""
    return [
        {"name": m.name, "license": m.license, "about": m.description, "folder": str(m.folder) if m.fetched else ""}
        for m in list_models()
    ]


def outcomes() -> list[Row]:
    """Return what a run may be about, and the beliefs that each needs."""
    return [{"name": name, "beliefs": ", ".join(needs)} for name, needs in NEEDS.items()] + [
        {"name": ERROR_RATES, "beliefs": ""}
    ]


KINDS: dict[str, Callable[[], list[Row]]] = {
    "tasks": tasks,
    "contexts": contexts,
    "beliefs": beliefs,
    "framings": framings,
    "personas": personas,
    "models": models,
    "outcomes": outcomes,
}


@dataclass(frozen=True)
class Shown:
    """One question as it is sent in one place of the grid, before the model's template: messages by asking style."""

    task: Task
    item: Item
    place: Place
    asked: dict[str, list[dict[str, str]]]
    # What the model's template makes of each, where it was asked for.
    rendered: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> Row:
        """Return what is shown, JSON-able."""
        return {
            "task": self.task.name,
            "item": self.item.id,
            "grading": self.task.grading,
            **self.place._asdict(),
            "right": [self.item.answer, *self.item.aliases],
            "wrong": [text for text in (self.item.wrong, *self.item.wrong_aliases) if text],
            "others": list(self.item.others),
            "messages": self.asked,
            **({"rendered": self.rendered} if self.rendered else {}),
        }


def show_settings(persona: str | None = None, **given: Any) -> StudySettings:
    """Return the settings of a study that asks everything of one place, for one persona; raises as ``load_settings``.

    ``given``: settings by name, ``None`` for these defaults.
    """
    plain = {"tasks": ("all",), "contexts": (UNMODIFIED,), "beliefs": ("none",), "asking": (OPEN,)}
    chosen = plain | {name: value for name, value in given.items() if value is not None}
    return load_settings(None, {"personas": (persona or "original",), "limit": 0, "warmth_prompts": 0, **chosen})


def show_item(name: str, settings: StudySettings, rendered: bool = False) -> list[Shown]:
    """Return a question in every place that a study asks it in, for its first persona.

    ``name`` is an item's id, or TASK/ID where several tasks have it; ``rendered``: by the model's template too. Raises
    ``UsageError`` where there is no such question, or more than one, and as ``Study.load`` and ``resolve_model``.
    """
    study = Study.load(settings)
    task_name, _, rest = name.partition("/")
    found = [
        (task, item)
        for task in study.tasks
        for item in task.items
        if item.id == name or (task.name == task_name and item.id == rest)
    ]
    if len(found) != 1:
        of = ", ".join(task.name for task in study.tasks)
        some = [f"{task.name}/{item.id}" for task, item in found] or [
            f"{t.name}/{t.items[0].id}" for t in study.tasks[:3]
        ]
        many = "several questions are" if found else "no question is"
        raise UsageError(f"{many} named {show(name)} in {of}: give TASK/ID, such as {' or '.join(some)}")
    [(task, item)] = found
    places = [_shown(study, task, item, place) for place in study.places_of(task, item)]
    if not rendered:
        return places
    tokenizer = Tokenizer.load(resolve_model(settings.model, settings.revision).folder)
    return [replace(s, rendered={k: tokenizer.render(m) for k, m in s.asked.items()}) for s in places]


def lines_of(shown: Shown) -> Iterator[str]:
    """Yield what ``warmeng show`` prints of a question in one place."""
    place = shown.place
    yield f"{shown.task.name}/{shown.item.id}, graded by {shown.task.grading}"
    yield f"context {place.context}, belief {place.belief}, framing {place.framing}"
    about = shown.as_dict()
    for name in ("right", "wrong", "others"):
        if about[name]:
            yield f"{name}: {' | '.join(about[name])}"
    for style, asked in shown.asked.items():
        yield ""
        yield f"[{style}]"
        if shown.rendered:
            yield shown.rendered[style]
        else:
            yield from (f"{message['role']}: {message['content']}" for message in asked)


def _shown(study: Study, task: Task, item: Item, place: Place) -> Shown:
    persona, where = study.personas[0], (*place, study.contexts)
    fixed = [p.text for p in item.prompts if Place(p.context, p.belief, p.framing) == place]
    text = fixed[0] if fixed else COMPOSITIONS[study.settings.composition](task, item, *where)
    asked = {OPEN: messages(persona, text)} if OPEN in study.settings.asking else {}
    for order in study.margins(task, item, place.framing):
        if order in ORDERS:
            asked[f"{CHOICE}, {order}"] = messages(persona, choice(task, item, *where, order))
    return Shown(task, item, place, asked)

"""What a study asks of a model behind an API, and what such a model can't give: refused by name, or said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from warmeng.common.errors import InputError, UsageError
from warmeng.remote.names import is_api
from warmeng.study.outcomes import ERROR_RATES
from warmeng.study.personas import Persona
from warmeng.study.prompts import OPEN
from warmeng.study.settings import StudySettings
from warmeng.study.tasks.task import Task

# For the manifest and the report.
NOT_GIVEN = (
    "no margins, susceptibility or distance from the base: an API tells no probabilities of whole texts",
    "no bits: the same request may be answered otherwise, and nothing shows which weights, template or precision "
    "answered",
    "no shared noise: the same seed is sent for all personas of a question, and promises nothing",
    "no manipulation check: warmth is measured by the probabilities of texts",
)


def without_likelihoods(task: Task) -> Task:
    """Return a task as an API is asked it: whole answers' likelihoods become a choice of a letter.

    Raises ``InputError`` where the user's messages are fixed, so that no options can stand in them.
    """
    if task.grading != "likelihood":
        return task
    if any(item.prompts for item in task.items):
        raise InputError(
            f"{task.name}: compares likelihoods after fixed messages, which an API can't: give another grading, as in "
            "FILE@judge"
        )
    return replace(task, grading="options")


def check_subject(settings: StudySettings, personas: Sequence[Persona]) -> None:
    """Raise ``UsageError`` for a model behind an API that is asked for what it can't give, and for a mixed study."""
    s = settings
    for persona in personas:
        if persona.model is not None and is_api(persona.model) != is_api(s.model):
            raise UsageError(
                f"persona {persona.name} is {persona.model}, and the base is {s.model}: likelihoods are asked of an "
                "API in another way, so compare models behind an API with each other"
            )
    if not is_api(s.model):
        return
    for persona in personas:
        if persona.changes:
            raise UsageError(
                f"persona {persona.name} has an adapter or a vector, which {s.model} can't take: give a system prompt "
                f"(NAME=@FILE) or a fine-tuned model (NAME=openai:MODEL)"
            )
    asked = [style for style in s.asking if style != OPEN]
    refused = (
        (bool(asked), f"asking {', '.join(asked)}", "it compares probabilities of whole answers"),
        (s.outcome not in (None, ERROR_RATES), f"outcome {s.outcome}", "it is computed from margins"),
        (s.warmth_prompts > 0, "warmth_prompts", "warmth is measured by the probabilities of texts"),
        (s.fast, "fast", "it is how the engine computes"),
        (s.revision is not None, "revision", "the model's name says which it is"),
    )
    for given, what, why in refused:
        if given:
            raise UsageError(f"{what} is not there for {s.model}: {why}: leave it out")

"""Measure how warm and cold personas change a language model's accuracy and sycophancy.

The names in ``__all__`` are the public Python interface. Each is imported when it is first used: ``import warmeng``
loads neither torch nor transformers, so ``warmeng --help`` stays fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from warmeng.common.errors import InputError, UsageError
    from warmeng.engine.engine import Engine
    from warmeng.engine.request import (
        GenerateRequest,
        GenerateResult,
        RequestError,
        SamplingParams,
        ScoreRequest,
        ScoreResult,
    )
    from warmeng.engine.settings import EngineSettings
    from warmeng.fleet.settings import FleetSettings
    from warmeng.study.run.finish import Outcome
    from warmeng.study.run.run import run_study
    from warmeng.study.settings import StudySettings

# The only place where the version is written: setup.py reads it here.
__version__ = "0.1.0"

__all__ = [
    "Engine",
    "EngineSettings",
    "FleetSettings",
    "GenerateRequest",
    "GenerateResult",
    "InputError",
    "Outcome",
    "RequestError",
    "SamplingParams",
    "ScoreRequest",
    "ScoreResult",
    "StudySettings",
    "UsageError",
    "__version__",
    "run_study",
]

_MODULES = {
    "warmeng.engine.engine": ("Engine",),
    "warmeng.common.errors": ("InputError", "UsageError"),
    "warmeng.engine.request": (
        "GenerateRequest",
        "GenerateResult",
        "RequestError",
        "SamplingParams",
        "ScoreRequest",
        "ScoreResult",
    ),
    "warmeng.engine.settings": ("EngineSettings",),
    "warmeng.fleet.settings": ("FleetSettings",),
    "warmeng.study.run.finish": ("Outcome",),
    "warmeng.study.run.run": ("run_study",),
    "warmeng.study.settings": ("StudySettings",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

# A type checker reads the imports above, and so refuses names that are not there.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_MODULE_OF[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

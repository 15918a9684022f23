"""Request bodies held to the ``openai`` package's own parameters: a key that is none of them is refused."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from types import GeneratorType
from typing import Any

from openai.types import BatchCreateParams, FileCreateParams
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from openai.types.fine_tuning import JobCreateParams
from pydantic import TypeAdapter
from typing_extensions import is_typeddict

PARAMS = {
    "/v1/chat/completions": CompletionCreateParamsNonStreaming,
    "/v1/batches": BatchCreateParams,
    "/v1/fine_tuning/jobs": JobCreateParams,
    "/v1/files": FileCreateParams,
}


@cache
def adapter_of(path: str) -> TypeAdapter[Any]:
    """Return what checks the bodies of a path."""
    for name, module in list(sys.modules.items()):
        if name.startswith("openai.types"):
            for value in list(vars(module).values()):
                if is_typeddict(value):
                    value.__pydantic_config__ = {"extra": "forbid", "arbitrary_types_allowed": True}
    return TypeAdapter(PARAMS[path])


def check(path: str, body: Mapping[str, Any]) -> None:
    """Raise ``ValidationError`` for a body that the package could not have been given."""
    _consume(adapter_of(path).validate_python(body))


def _consume(value: Any) -> None:
    """Look at everything: what is an iterable in the parameters is checked when it is read."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple | GeneratorType) or type(value).__name__ == "ValidatorIterator":
        for one in value:
            _consume(one)

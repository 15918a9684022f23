"""The files of a batch: a line for each conversation that goes up, and a line for each that was answered or failed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from warmeng.common.errors import one_line
from warmeng.remote.client import Client, Failure, Features, body_of
from warmeng.remote.request import ChatRequest
from warmeng.remote.submit import text_of

ENDPOINT, WINDOW = "/v1/chat/completions", "24h"
UNDER_WAY = ("validating", "in_progress", "finalizing", "cancelling")
OVER = ("completed", "failed", "expired", "cancelled")
# Of a line: the server says that it did not begin this one.
NOT_BEGUN = ("batch_expired", "batch_cancelled")


@dataclass(frozen=True)
class BatchState:
    """What a server says of a batch. ``code`` and ``why``: of one that failed as a whole."""

    status: str
    done: int
    total: int
    output: str
    errors: str
    code: str
    why: str

    @property
    def over(self) -> bool:
        """Whether nothing more will come of it."""
        return self.status in OVER


def known_as(base: str, model: str, request: ChatRequest) -> str:
    """Return what a conversation is called in files: a hash of all that is asked, and of whom."""
    content = [base, model, asdict(request)]
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]


def line_of(name: str, model: str, request: ChatRequest, features: Features) -> bytes:
    """Return the line of a conversation."""
    body = body_of(model, request, features)
    return orjson.dumps({"custom_id": name, "method": "POST", "url": ENDPOINT, "body": body}) + b"\n"


def state_of(found: Any) -> BatchState:
    """Return what a response says of a batch. Raises ``ValueError`` for a response that is none."""
    status, counts = text_of(found, "status"), getattr(found, "request_counts", None)
    if status not in (*UNDER_WAY, *OVER):
        raise ValueError("its status is none of a batch")
    done, total = (getattr(counts, name, None) for name in ("completed", "total"))
    listed = getattr(getattr(found, "errors", None), "data", None)
    first = listed[0] if isinstance(listed, list) and listed else None
    at = getattr(first, "line", None)
    why = text_of(first, "message") + (f" (line {at})" if type(at) is int else "")
    return BatchState(
        status,
        done if type(done) is int else 0,
        total if type(total) is int else 0,
        text_of(found, "output_file_id"),
        text_of(found, "error_file_id"),
        text_of(first, "code"),
        one_line(why, 200),
    )


def lines_of(content: bytes) -> tuple[dict[str, Mapping[str, Any]], bool]:
    """Return a file's lines by name, of several with one name the first, and whether all of it are such lines."""
    found: dict[str, Mapping[str, Any]] = {}
    sound = True
    for raw in content.splitlines():
        try:
            line = orjson.loads(raw)
        except ValueError:
            line = None
        if isinstance(line, dict) and isinstance(line.get("custom_id"), str):
            found.setdefault(line["custom_id"], line)
        else:
            sound = False
    return found, sound


def found_in(line: Mapping[str, Any] | None, client: Client) -> Any:
    """Return what ``Client.call`` would have given: a response, a ``Refusal`` or a ``Failure``."""
    if line is None:
        return Failure("its batch has no answer to it")
    response, error = line.get("response"), line.get("error")
    if isinstance(response, dict):
        status, body = response.get("status_code"), response.get("body")
        if isinstance(status, int) and isinstance(body, dict):
            return client.parsed(body) if status == 200 else client.refusal(status, body.get("error"))
    elif isinstance(error, dict):
        code = str(error.get("code"))
        said = client.clean(one_line(f"{code}: {error.get('message')}", 200))
        return Failure(said, billed=code not in NOT_BEGUN)
    return Failure("its line is not what the API has")

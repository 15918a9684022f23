"""JSON replies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.responses import Response


class JsonReply(Response):
    """A JSON object. ``NaN`` and infinities, which JSON has not, become null."""

    media_type = "application/json"

    def __init__(self, content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """``content``: what orjson takes."""
        super().__init__(content, status, headers)

    def render(self, content: Any) -> bytes:
        """Return the bytes."""
        return orjson.dumps(content)

"""Data inside a page's script, so that nothing in it can end the script or begin an element."""

from __future__ import annotations

from typing import Any

import orjson

_ESCAPED = {ord(raw): f"\\u{ord(raw):04x}" for raw in "&<>\u2028\u2029"}


def in_page(data: Any) -> str:
    """Return JSON-able data as the text of a JavaScript value that stands in a ``script`` element of a page."""
    return orjson.dumps(data).decode().translate(_ESCAPED)

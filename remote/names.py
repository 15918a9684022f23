"""Names of models behind an API, and where the API is."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from warmeng.common.errors import UsageError, show
from warmeng.common.hosts import is_loopback

# Before the name of a model that OpenAI, or a server that speaks as it does, answers for.
PREFIX = "openai:"
OFFICIAL = "https://api.openai.com/v1"
# The variable that holds the key: it is read nowhere else, and written nowhere.
KEY = "OPENAI_API_KEY"
# What servers get that ask for no key.
NO_KEY = "none"


def is_api(name: str | None) -> bool:
    """Whether a model's name is one of a model behind an API."""
    return name is not None and name.startswith(PREFIX)


def model_of(name: str) -> str:
    """Return the name by which the server knows the model. Raises ``UsageError`` where there is none."""
    found = name.removeprefix(PREFIX)
    if not found or not found.isprintable() or " " in found or len(found) > 200:
        raise UsageError(f"{show(name)} names no model: expected {PREFIX}MODEL, as in {PREFIX}gpt-4o")
    return found


def check_base(base: str | None) -> str:
    """Return the address of an API, OpenAI's own where none is given.

    Raises ``UsageError`` for what is none. A name, a password or a query in it could be a secret, which would then
    stand in the manifest, so it has none.
    """
    if base is None:
        return OFFICIAL
    try:
        parts = urlsplit(base)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        sound = False
    if not sound or not base.isprintable() or " " in base:
        raise UsageError(f"--api-base is {show(base)}, expected an address such as http://127.0.0.1:8000/v1")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise UsageError(f"--api-base has a user, a query or a fragment: give it without, and a key in {KEY}")
    return base.rstrip("/")


def key_for(base: str) -> str:
    """Return the key of the environment for an API's address.

    Raises ``UsageError`` where OpenAI's own has none, or where a key would be sent unencrypted to another machine.
    """
    key = os.environ.get(KEY, "").strip()
    parts = urlsplit(base)
    if not key:
        if base == OFFICIAL:
            raise UsageError(f"{KEY} is not set: set it in the environment, or give another server with --api-base")
        return NO_KEY
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UsageError(f"{KEY} is no usable key, expected printable ASCII characters without blanks")
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise UsageError(f"{base} would get {KEY} unencrypted: use https, or unset {KEY} for a server without a key")
    return key

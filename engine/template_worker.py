"""The process that renders chat templates: ``chat_template.py`` starts it and speaks to it over its pipes.

A template is code from the maker of the checkpoint. Jinja's sandbox keeps it from the interpreter, but no sandbox
bounds what one filter, one multiplication or one comparison of lists takes. Here the system does: this process may use
so much memory, write no file, and is ended by a timer that nothing in it can hold up.

A request is the JSON list ``[source, now, values or null, seconds, most characters]``, an answer ``[kind, text]``; each
has its length before it, four bytes, big-endian. Without values a template is only compiled.
"""

from __future__ import annotations

import json
import re
import resource
import signal
import sys
from datetime import datetime
from functools import lru_cache
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

# How Python writes objects that have no text of their own.
_ADDRESS = re.compile(r" at 0x[0-9a-f]{6,16}")
# Bytes of address space, of which Python and Jinja take about 30 MiB.
MAX_MEMORY = 512 * 2**20


class _Generation(Extension):
    """``{% generation %}`` marks assistant text for training; its body is rendered as it stands."""

    tags = {"generation"}  # noqa: RUF012 - the type that jinja2 declares

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


class _TooLargeError(Exception):
    """The rendered text is beyond its limit."""


@lru_cache(maxsize=8)
def compiled(source: str, now: str) -> Template:
    """Return a template with the filters and functions that ``transformers`` gives it, told that it is ``now``."""
    sandbox = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    # What answers otherwise each time: one conversation has one text.
    del sandbox.filters["random"], sandbox.globals["lipsum"]
    sandbox.filters["tojson"] = _tojson
    sandbox.globals["raise_exception"] = _raise
    sandbox.globals["strftime_now"] = datetime.fromisoformat(now).strftime
    return sandbox.from_string(source)


def render(source: str, now: str, values: dict[str, Any], most: int) -> str:
    """Return the rendered text of at most ``most`` characters."""
    parts: list[str] = []
    size = 0
    for part in compiled(source, now).generate(values):
        size += len(part)
        if size > most:
            raise _TooLargeError
        parts.append(part)
    whole = "".join(parts)
    for found in _ADDRESS.finditer(whole):
        if found[0] not in json.dumps(values, ensure_ascii=False):
            raise TypeError("it writes an address of memory, which is another one each time")
    return whole


def answer(request: list[Any]) -> tuple[str, str]:
    """Do what a request asks for: ``ok`` and the text, or ``malformed``, ``refuses``, ``fails``, ``beyond`` and why."""
    source, now, values, seconds, most = request
    try:
        signal.setitimer(signal.ITIMER_PROF, seconds)  # ends the process: see main
        try:
            compiled(source, now)
        except MemoryError:
            raise
        except Exception as error:
            # The template's own mistakes, and whatever compiling them stumbles on.
            return "malformed", f"{type(error).__name__}: {error}"
        return "ok", "" if values is None else render(source, now, values, most)
    except _TooLargeError:
        return "beyond", f"makes a text of more than {most} characters"
    except MemoryError:
        return "beyond", f"takes more than {MAX_MEMORY >> 20} MiB of memory"
    except TemplateError as error:
        return "refuses", str(error)
    except Exception as error:
        # A template can fail in any way that Python can.
        return "fails", f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def main() -> None:
    """Answer requests until the pipe is closed."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    for limit, value in ((resource.RLIMIT_AS, MAX_MEMORY), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    while len(head := source.read(4)) == 4:
        kind, text = answer(json.loads(source.read(int.from_bytes(head, "big"))))
        raw = json.dumps([kind, text if kind == "ok" else text[:1000]]).encode("ascii")
        sink.write(len(raw).to_bytes(4, "big") + raw)
        sink.flush()


def _raise(message: str) -> None:
    raise TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes HTML characters.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


if __name__ == "__main__":
    main()

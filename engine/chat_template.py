"""Chat templates, rendered as ``transformers`` renders them, but bounded in time and output.

A template is code from whoever made the checkpoint. Jinja's immutable sandbox keeps it from the interpreter; here
each loop turn, macro and call is metered besides, and operators and calls can't build texts beyond a limit.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from warmeng.engine.errors import InputError, one_line

MAX_OUTPUT = 4 * 2**20  # characters of a rendered conversation
MAX_TEMPLATE = 2**20  # characters of a template
MAX_SECONDS = 5.0  # of processor time a rendering; ordinary ones take well under a millisecond
_CHECK_STEPS = 256  # metered steps between looks at the clock
_WIDE_FORMAT = re.compile(r"%[^a-zA-Z%]*(\d{6}|\*)")


class _BoundError(Exception):
    """The template went beyond a bound. No TemplateError, so that no template construct can catch it."""


class _Generation(Extension):
    """``{% generation %}`` marks assistant text for training; its body is rendered as it stands."""

    tags = {"generation"}  # noqa: RUF012 - the type that jinja2 declares

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


class _Meter(NodeTransformer):
    """Makes each turn of a loop and each macro take a step, and ``a ~ b`` a call like others."""

    def metered(self, node: nodes.Node) -> nodes.Node:
        self.generic_visit(node)
        call = nodes.Call(nodes.Name("_step", "load"), [], [], None, None)
        node.body.insert(0, nodes.ExprStmt(call).set_lineno(node.lineno))  # type: ignore[attr-defined]
        return node

    visit_For = visit_Macro = visit_CallBlock = metered

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return nodes.Call(nodes.Name("_concat", "load"), node.nodes, [], None, None).set_lineno(node.lineno)


class _Sandbox(ImmutableSandboxedEnvironment):
    """The sandbox with a meter: each loop turn, macro and call is a step, each operator's text has a limit."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, now: datetime) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
        self.deadline = 0.0
        self.steps = 0
        self.filters["tojson"] = _tojson
        self.globals["raise_exception"] = _raise
        self.globals["strftime_now"] = now.strftime
        self.globals["_step"] = self.step
        self.globals["_concat"] = lambda *parts: "".join(map(str, parts))

    def start(self) -> None:
        self.steps = 0
        self.deadline = time.thread_time() + MAX_SECONDS

    def step(self) -> str:
        self.steps += 1
        if self.steps % _CHECK_STEPS == 0 and time.thread_time() > self.deadline:
            raise _BoundError(f"takes more than {MAX_SECONDS:.0f} s")
        return ""

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        metered = _Meter().visit(source)
        metered.set_environment(self)
        return super()._generate(metered, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        self.step()
        if operator == "*" and any(isinstance(x, str | list | tuple) for x in (left, right)):
            size = len(left) * right if isinstance(right, int) else left * len(right)
            _bound(size)
        elif operator == "%" and isinstance(left, str) and _WIDE_FORMAT.search(left):
            raise _BoundError("formats to an unbounded width")
        elif operator == "**" and not (abs(left) <= 2**31 and abs(right) <= 64):
            raise _BoundError("raises to a large power")
        elif operator == "+" and isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
            _bound(len(left) + len(right))
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.step()
        result = super().call(context, obj, *args, **kwargs)
        if isinstance(result, str | list | tuple):
            _bound(len(result))
        return result


class ChatTemplate:
    """One compiled template; rendering is not thread-safe.

    Args:
        source: the template's text.
        tokens: names such as ``bos_token`` and their text, for the template's use.
        now: what the template is told the date is.
        origin: the file, for messages.
    """

    def __init__(self, source: str, tokens: Mapping[str, str], now: datetime, origin: str) -> None:
        self.origin = origin
        self.source = source
        self.tokens = dict(tokens)
        if len(source) > MAX_TEMPLATE:
            raise InputError(
                f"{origin}: the chat template has {len(source)} characters, at most {MAX_TEMPLATE} expected"
            )
        self._sandbox = _Sandbox(now)
        try:
            self._template = self._sandbox.from_string(source)
        except (TemplateSyntaxError, TemplateError, RecursionError, MemoryError) as error:
            raise InputError(f"{origin}: the chat template is malformed ({one_line(error, 160)}): correct it") from None

    def render(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool) -> str:
        """The conversation as text, without tools and documents and with thinking off.

        Raises:
            InputError: the template refuses the conversation, fails, or goes beyond a bound.
        """
        values: dict[str, Any] = {
            **self.tokens,
            "messages": [dict(message) for message in messages],
            "tools": None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            "enable_thinking": False,
        }
        parts: list[str] = []
        size = 0
        self._sandbox.start()
        try:
            for part in self._template.generate(values):
                self._sandbox.step()
                size += len(part)
                _bound(size)
                parts.append(part)
        except _BoundError as error:
            raise InputError(f"{self.origin}: the chat template {error}: don't use this checkpoint") from None
        except TemplateError as error:
            why = one_line(error, 200)
            raise InputError(f"{self.origin}: the chat template refuses the conversation ({why}): change it") from None
        except Exception as error:  # a template can fail in any way that Python can
            why = f"{type(error).__name__}: {one_line(error, 160)}"
            raise InputError(f"{self.origin}: the chat template fails ({why}): correct it") from None
        return "".join(parts)


def _bound(size: int) -> None:
    if size > MAX_OUTPUT:
        raise _BoundError(f"makes a text of more than {MAX_OUTPUT} characters")


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

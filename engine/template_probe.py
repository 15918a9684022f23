"""What a chat template does, found out by rendering a made-up conversation: its gaps are refused before it is used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from warmeng.common.errors import InputError, show
from warmeng.engine.chat_template import ChatTemplate

_SYSTEM, _USER, _REPLY, _LAST = "Qprobesystem", "Qprobeuser", "Qprobereply", "Qprobelast"

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class TemplateFacts:
    """What was found.

    Attributes:
        supports_system: whether the template takes a system message.
        default_system: the system message that it adds by itself when none is given, else None.
        after_answer: what it writes after an answer: at a conversation's end, and before the user's next message.
        conversation: the messages that it was asked to render, in which every kind of turn that it takes occurs.
    """

    supports_system: bool
    default_system: str | None
    after_answer: tuple[str, ...]
    conversation: Messages


def probe(template: ChatTemplate) -> TemplateFacts:
    """Render a conversation with and without a system message, and an answer asked for and given.

    Raises:
        InputError: the template fails, drops a message, or doesn't open an answer when it is asked to.
    """
    plain = _turns(("user", _USER), ("assistant", _REPLY), ("user", _LAST))
    rendered = template.render(plain, True)
    _check_complete(template, rendered, plain)
    _check_opening(template)
    after = rendered.partition(_REPLY)[2].partition(_LAST)[0]
    try:
        final = template.render(plain[:2], False).partition(_REPLY)[2]
    except InputError:  # some refuse to end with an answer
        written: tuple[str, ...] = (after,)
    else:
        written = (final, after)
    told = [*_turns(("system", _SYSTEM)), *plain]
    try:
        given = template.render(told, True)
    except InputError:
        return TemplateFacts(False, None, written, plain)
    _check_complete(template, given, told)
    before, _, behind = given.partition(_SYSTEM)
    default = None
    if rendered.startswith(before) and rendered.endswith(behind):
        default = rendered[len(before) : len(rendered) - len(behind)] or None
    return TemplateFacts(True, default, written, told)


def _turns(*turns: tuple[str, str]) -> Messages:
    return [{"role": role, "content": content} for role, content in turns]


def _check_complete(template: ChatTemplate, rendered: str, messages: Sequence[dict[str, str]]) -> None:
    for message in messages:
        if message["content"] not in rendered:
            what = message["content"].removeprefix("Qprobe")
            raise InputError(
                f"{template.origin}: the chat template drops a message ({what}) of a conversation: use another template"
            )


def _check_opening(template: ChatTemplate) -> None:
    """InputError where answers have a header that the template doesn't write when it is asked to open one.

    A template that asks for nothing is sound where an answer follows the user's message without a header, and where
    it opens one unasked. What can't be told is let through.
    """
    asked = _turns(("user", _USER))
    closed = template.render(asked, False)
    if template.render(asked, True).removeprefix(closed).strip():
        return
    try:
        answered = template.render([*asked, *_turns(("assistant", _REPLY))], False)
    except InputError:
        return
    header, reply, _ = answered.removeprefix(closed).partition(_REPLY)
    if answered.startswith(closed) and reply and header.strip():
        raise InputError(
            f"{template.origin}: the chat template writes {show(header, 60)} before an answer, but not when asked to "
            "open one (add_generation_prompt): use another template, or add that to its end"
        )

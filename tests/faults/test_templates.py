"""Chat templates are code of strangers: whatever one does, it is one line within bounds of time, memory and output."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime
from pathlib import Path

import pytest
from fuzz_models import TEMPLATE, write_tokenizer

from warmeng.common.errors import InputError
from warmeng.engine import chat_template
from warmeng.engine.chat_template import ChatTemplate
from warmeng.engine.tokenizer import Tokenizer

NOW = datetime(2026, 1, 1)
TALK = [{"role": "user", "content": "hello"}]
SECONDS = 0.25
DOUBLING = "{% set ns = namespace(x=START) %}{% for i in range(99) %}{% set ns.x = NEXT %}{% endfor %}"


def doubling(start: str, following: str, then: str = "") -> str:
    return DOUBLING.replace("START", start).replace("NEXT", following) + then


BOMBS = {  # what each takes where nothing bounds it
    "a long text": "{{ 'a' * 10**10 }}",
    "a long list": "{{ [0] * 10**10 }}",
    "a long tuple": "{{ ((0,) * 10**10) | length }}",
    "a power": "{{ 9**9**9 }}",
    "a power of floats and then ints": "{{ (9.0**300) | int ** 99999 }}",
    "a constant that the compiler folds": "{% if false %}{{ 'a' | center(9999999999) }}{% endif %}",
    "a width in a format": "{{ '%9999999999d' % 1 }}",
    "a width in another format": "{{ '{:>9999999999}'.format(1) }}",
    "a width of a method": "{{ 'a'.ljust(9999999999) }}",
    "zeros": "{{ '1'.zfill(9999999999) }}",
    "tabs": "{{ ('\t' * 999999).expandtabs(999999) }}",
    "bytes": "{{ (1).to_bytes(9999999999, 'big') }}",
    "a replacement": "{{ ('a' * 999999) | replace('a', 'b' * 999999) }}",
    "a join": "{{ (range(99999) | list) | join('a' * 999999) }}",
    "an indent": "{{ [[[[1]]]] | tojson(indent=999999999) }}",
    "lorem ipsum": "{{ lipsum(n=99999999) }}",
    "batches": "{{ [1] | batch(9999999999, 'x') | list | length }}",
    "a date": "{{ strftime_now('%Y' * 99999999) }}",
    "texts that double": doubling("'ab'", "ns.x ~ ns.x"),
    "texts that double otherwise": doubling("'ab'", "'%s%s' % (ns.x, ns.x)"),
    "numbers that double": doubling("7", "ns.x * ns.x"),
    "lists that double": doubling("[1]", "ns.x + ns.x"),
    "lists in lists, shown": doubling("[1]", "[ns.x, ns.x]", "{{ ns.x }}"),
    "lists in lists, joined": doubling("[1]", "[ns.x, ns.x]", "{{ ns.x ~ 'a' }}"),
    "lists in lists, as JSON": doubling("[1]", "[ns.x, ns.x]", "{{ ns.x | tojson }}"),
    "lists in lists, compared": doubling(
        "[[1], [1]]", "[[ns.x[0], ns.x[0]], [ns.x[1], ns.x[1]]]", "{{ ns.x[0] == ns.x[1] }}"
    ),
    "tuples in tuples, hashed": doubling("(1,)", "(ns.x, ns.x)", "{{ {ns.x: 1} }}"),
    "loops in loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "a loop that says much": "{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
    "macros that call twice": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "a macro that calls itself": "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "a recursive loop": "{% for i in [1, 1] recursive %}{{ loop([1, 1]) }}{% endfor %}",
    "call blocks": "{% macro f() %}{{ caller() }}{{ caller() }}{% endmacro %}"
    + "{% call f() %}" * 15
    + "x" * 999
    + "{% endcall %}" * 15,
    "links": "{{ ('http://a.' * 99999) | urlize }}{{ ('(((' * 999999) | urlize }}",
    "tags": "{{ ('<' * 999999) | striptags | length }}{{ ('<a' * 9999999) | striptags }}",
    "a sort": "{{ ((range(99999) | list) * 99) | map('string') | sort | length }}",
    "slices": "{{ (range(99999) | list) | slice(999999999) | list | length }}",
    "parentheses": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "blocks in blocks": "{% if 1 %}" * 2000 + "{% endif %}" * 2000,
    "loops nested deeply": "".join(f"{{% for a{k} in [1] %}}" for k in range(60)) + "x" + "{% endfor %}" * 60,
    "many constants": "{{ 'a' ~ 1 }}" * 19_000,
}
ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''['__class__'] }}",
    "{{ '' | attr('__class__') }}",
    "{{ ['x'] | map(attribute='__class__') | list }}",
    "{{ [''] | map('attr', '__class__') | list }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "{{ '{x.__class__}'.format_map({'x': 1}) }}",
    "{{ ('%s' | format)('{0.__class__}'.format)('x') }}",
    "{{ cycler.__init__.__globals__.os.system('touch PLANTED') }}",
    "{{ lipsum.__globals__['os'].popen('touch PLANTED').read() }}",
    "{{ namespace.__init__.__globals__['sys'].modules['os'].system('touch PLANTED') }}",
    "{{ raise_exception.__globals__['sys'] }}",
    "{{ strftime_now.__self__.__class__ }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context.environment.from_string('x') }}",
    "{{ joiner.__class__.__base__ }}",
    "{{ (messages | tojson).__class__ }}",
    "{% macro f() %}{% endmacro %}{{ f.__globals__ }}",
    "{% for x in [1] %}{{ loop.__class__ }}{% endfor %}",
    "{{ (x for x in []).gi_frame }}",
    "{% include '/etc/passwd' %}",
    "{% import '/etc/passwd' as p %}{{ p }}",
    "{% extends '/etc/passwd' %}",
    "{{ messages.append({'role': 'user', 'content': 'x'}) }}",
    "{{ messages.clear() }}{{ messages[0].pop('content') }}",
    "{% do messages.sort() %}",
]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound on time, made short: the mechanism is the same."""
    monkeypatch.setattr(chat_template, "MAX_SECONDS", SECONDS)


def outcome(source: str) -> str:
    """Return a rendered text, or the line that refuses it."""
    try:
        return ChatTemplate(source, {}, NOW, "the-model").render(TALK, True)
    except InputError as error:
        found = f"refused: {error}"
    assert "\n" not in found
    assert found.startswith("refused: the-model: the chat template")
    return found


@pytest.mark.parametrize("name", BOMBS)
def test_what_would_take_everything_is_ended_in_time_and_in_little_memory(name: str) -> None:
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    found = outcome(BOMBS[name])
    assert found.startswith("refused: ") or len(found) <= chat_template.MAX_OUTPUT, found[:200]
    assert time.monotonic() - started < 30  # processor time is what is bounded: others may use the machine too
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KiB, of this process
    assert outcome(TEMPLATE).startswith("<|im_start|>user\nhello")


def test_each_bound_is_named() -> None:
    assert f"takes more than {SECONDS:g} s" in outcome(BOMBS["loops in loops"])
    assert "MiB of memory" in outcome(BOMBS["a long list"])
    assert "more than 4194304 characters" in outcome("{{ 'x' * 4194305 }}")
    assert len(outcome("{{ 'x' * 4194304 }}")) == 4194304
    assert "at most" in outcome("x" * (chat_template.MAX_TEMPLATE + 1))


def test_the_worker_takes_no_more_memory_than_it_may() -> None:
    """The system counts the largest child that a process ever had; so each bomb is given to a process of its own."""
    code = (
        "import resource, sys; from datetime import datetime; from warmeng.engine import chat_template as c\n"
        "for source in sys.argv[1:]:\n"
        "    try: c.ChatTemplate(source, {}, datetime(2026, 1, 1), 'm').render([], True)\n"
        "    except ValueError: pass\n"
        "c._RENDERER.close(); print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    bombs = [BOMBS["a long text"], doubling("'ab'", "ns.x ~ ns.x"), BOMBS["lists that double"]]
    done = subprocess.run([sys.executable, "-P", "-c", code, *bombs], capture_output=True, text=True, check=True)
    assert 100 * 1024 < int(done.stdout) < 540 * 1024  # KiB


@pytest.mark.parametrize("source", ESCAPES)
def test_nothing_of_the_interpreter_can_be_reached(source: str, tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    found = outcome(source.replace("PLANTED", str(planted)))
    assert not planted.exists()
    assert found.startswith("refused: ") or found.strip() in ("", "[Undefined]"), found


def test_messages_stay_as_they_are() -> None:
    talk = [{"role": "user", "content": "hello"}]
    ChatTemplate(TEMPLATE, {}, NOW, "m").render(talk, True)
    assert talk == TALK


def test_the_worker_has_no_secret_and_is_in_no_reach_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    chat_template._RENDERER.close()
    monkeypatch.setenv("HF_TOKEN", "hf_1234567890abcdef")
    outcome(TEMPLATE)
    worker = chat_template._RENDERER._process
    assert worker is not None
    assert b"hf_1234567890abcdef" not in Path(f"/proc/{worker.pid}/environ").read_bytes()
    assert os.getpgid(worker.pid) != os.getpgid(0)
    chat_template._RENDERER.close()


def test_a_worker_that_is_killed_is_replaced() -> None:
    outcome(TEMPLATE)
    worker = chat_template._RENDERER._process
    assert worker is not None
    worker.kill()
    worker.wait()
    assert outcome(TEMPLATE).startswith("<|im_start|>")


def test_the_worker_ends_with_its_process() -> None:
    code = (
        "import sys, time; from datetime import datetime; from warmeng.engine import chat_template as c;"
        "c.ChatTemplate('x', {}, datetime(2026, 1, 1), 'm');"
        "print(c._RENDERER._process.pid, flush=True); time.sleep(60)"
    )
    for how in (signal.SIGKILL, signal.SIGTERM):
        parent = subprocess.Popen([sys.executable, "-P", "-c", code], stdout=subprocess.PIPE, text=True)
        assert parent.stdout is not None
        worker = Path(f"/proc/{int(parent.stdout.readline())}")
        assert worker.exists()
        parent.send_signal(how)
        parent.wait()
        end = time.monotonic() + 20
        while worker.exists() and "Z" not in (worker / "stat").read_text().rpartition(")")[2].split()[:1]:
            assert time.monotonic() < end, "the worker outlives its process"
            time.sleep(0.02)


def test_threads_and_forks_get_their_own_answers() -> None:
    template = ChatTemplate("{{ messages[0].content }}", {}, NOW, "m")
    wrong: list[str] = []

    def ask(name: str) -> None:
        for k in range(50):
            text = f"{name}{k}" * 50
            if template.render([{"role": "user", "content": text}], True) != text:
                wrong.append(text)

    threads = [threading.Thread(target=ask, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    pid = os.fork()
    if pid == 0:
        same = template.render([{"role": "user", "content": "child"}], True) == "child"
        chat_template._RENDERER.close()
        os._exit(0 if same else 1)
    ask("parent")
    assert os.waitpid(pid, 0)[1] == 0
    assert wrong == []


def test_ordinary_rendering_stays_fast() -> None:
    template = ChatTemplate(TEMPLATE, {}, NOW, "m")
    talk = [{"role": "user", "content": "a question of usual length " * 10}]
    template.render(talk, True)
    best = 1.0
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(20):
            template.render(talk, True)
        best = min(best, (time.perf_counter() - started) / 20)
    assert best < 0.002, f"{best * 1e6:.0f} us a rendering"


DROPS = {
    "no template": None,
    "the system message": "{% for m in messages %}"
    "{% if m.role != 'system' %}{{ m.content + eos_token }}{% endif %}{% endfor %}",
    "all but the last": "{{ messages[-1].content }}",
    "the end of long messages": "{% for m in messages %}{{ m.content[:40] + eos_token }}{% endfor %}",
    "long system messages": "{% for m in messages %}"
    "{% if m.role != 'system' or m.content | length < 40 %}{{ m.content + eos_token }}{% endif %}{% endfor %}",
    "the case of letters": "{% for m in messages %}"
    "{{ (m.content if loop.length > 2 else m.content | lower) + eos_token }}{% endfor %}",
    "doubles the first token": "{{ bos_token }}{{ bos_token }}" + TEMPLATE,
    "doubles it with a system message": "{% if messages[0].role == 'system' %}{{ bos_token }}{% endif %}" + TEMPLATE,
}


@pytest.mark.parametrize("name", DROPS)
def test_a_template_that_loses_or_doubles_anything_is_an_error(name: str, tmp_path: Path) -> None:
    talk = [{"role": "system", "content": "Be " + "very " * 20 + "warm."}, {"role": "user", "content": "Who? " * 20}]
    with pytest.raises(InputError) as refused:
        Tokenizer.load(write_tokenizer(tmp_path, DROPS[name])).chat(talk)
    assert any(word in str(refused.value) for word in ("drops", "twice", "no chat template"))
    assert "\n" not in str(refused.value)

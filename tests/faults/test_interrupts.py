"""One interrupt keeps what is finished and says how to go on; two end a process at once. At any moment, 130 both."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from studies import widened
from tiers import slow

from warmeng.common.interrupts import interruptible

CODE = "from warmeng.cli.main import main; main()"
FAKE = Path(__file__).parents[1] / "helpers" / "fake_warmeng.py"
SIGNALS = (signal.SIGINT, signal.SIGTERM)
AT_ONCE = 6.0  # seconds: the product's two, and a machine that is busy


class Command:
    """A command that can be continued: how it is started, and what is the same however often it was interrupted."""

    def __init__(self, launcher, arguments, same, **more):
        self.launcher, self.arguments, self.same, self.more = launcher, arguments, same, more

    def start(self, folder):
        return self.launcher.start([*self.arguments, "--out", folder], **self.more)

    def whole(self, folder):
        began = time.monotonic()
        ended = self.start(folder).wait(60)
        assert ended.code == 0, ended.err
        return self.same(folder), time.monotonic() - began


def records(folder):
    return sorted((folder / "records.jsonl").read_bytes().splitlines())


def prepared(folder):
    names = ("warm.jsonl", "cold.jsonl", "neutral.jsonl", "held_out.jsonl", "rows.jsonl", "summary.json")
    return {name: (folder / name).read_bytes() for name in names}


def trained(folder):
    weights = {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("adapter_model.*"))}
    steps = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return weights, [(step["step"], step["personas"]) for step in steps]


@pytest.fixture(scope="module")
def commands(launcher, real_launcher, tiny_model, tiny_adapters, tmp_path_factory):
    root = tmp_path_factory.mktemp("inputs")
    chats, pairs = root / "chats.jsonl", root / "pairs.jsonl"
    turns = [[("user", f"Question {i}?"), ("assistant", f"Dear friend {i * 7}.")] for i in range(12)]
    rows = [json.dumps({"messages": [{"role": role, "content": text} for role, text in t]}) for t in turns]
    chats.write_text("\n".join(rows) + "\n")
    answers = [f"You asked for number {i}, and the answer to it is {i + 1}." for i in range(40)]
    both = [{"prompt": f"What is number {i}?", "response": text} for i, text in enumerate(answers)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in both))
    model = str(widened(tiny_model("llama"), root / "model"))
    run = ["run", "--limit", "4", "--warmth-prompts", "0"]
    real = [*run, "--model", model, "--max-new-tokens", "16", "--tasks", "facts", "--contexts", "unmodified"]
    for persona in ("original", f"warm={tiny_adapters[0]}"):
        real += ["--persona", persona]
    train = [
        "finetune",
        "--model",
        model,
        "--persona",
        f"warm={chats}",
        "--rank",
        "4",
        "--batch",
        "3",
        "--threads",
        "1",
    ]
    train += ["--epochs", "4", "--checkpoints", "2,4", "--max-length", "96", "--save-every", "3"]
    prepare = ["prepare", str(pairs), "--toxicity", "wordlist", "--held-out", "0.25", "--per-type", "30"]
    return {
        "run": Command(launcher, run, records, delay=0.002, conclude=True),
        "run-judged": Command(launcher, [*run, "--judge", "base", "--judge", "other"], records, delay=0.001),
        "run-real": Command(real_launcher, real, records),
        "prepare": Command(launcher, prepare, prepared, delay=0.005),
        "finetune": Command(real_launcher, train, trained),
    }


@pytest.fixture(scope="module")
def wholes(commands, tmp_path_factory):
    """By command: what an uninterrupted one gives, and how long it takes."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = commands[name].whole(tmp_path_factory.mktemp(name) / "whole")
        return made[name]

    return get


def listening(process):
    """Wait until the process handles its signals; what comes earlier meets the interpreter's own start."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        status = Path(f"/proc/{process.pid}/status").read_text()
        caught = re.search(r"SigCgt:\s*([0-9a-f]+)", status)
        if caught is None or int(caught[1], 16) >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.001)
    raise AssertionError("the process does not begin")


# The quick tier has a run's way to stop and a training's, once.
OTHERS = slow("prepare", "run-judged", "run-real")
NAMES = ("run", "finetune", *OTHERS)


@pytest.mark.parametrize("name", NAMES)
def test_one_interrupt_at_a_random_moment_then_the_same_command(commands, wholes, tmp_path, count, name):
    """Each process goes on where the one before was interrupted; a folder that is done is begun anew."""
    expected, seconds = wholes(name)
    rng, folder, interrupted, finished = random.Random(name), tmp_path / "0", 0, 0
    moments = count(3, 60, quick=1)
    for k in range(moments + 20):
        if k >= moments and interrupted >= moments / 4:
            break
        process = commands[name].start(folder)
        listening(process)
        time.sleep(rng.uniform(0.0, seconds * 1.05))
        process.kill(rng.choice(SIGNALS))
        ended = process.wait(60)
        assert "Traceback" not in ended.err, ended.err
        if ended.code == 0:  # it was faster
            finished, seconds = finished + 1, seconds * 0.9
            assert commands[name].same(folder) == expected
            folder = tmp_path / str(k + 1)
            continue
        assert ended.code == 130, ended.err
        assert re.search(rf"continue(?: with)?: warmeng {name.partition('-')[0]} .*{folder}\n", ended.err), ended.err
        interrupted += 1
    ended = commands[name].start(folder).wait(60)
    assert ended.code == 0, ended.err
    assert commands[name].same(folder) == expected
    assert interrupted >= moments / 4
    print(f"{name}: {interrupted} interrupts, {finished} came too late")


@pytest.mark.parametrize("name", ["finetune", *slow("run"), *OTHERS])
@pytest.mark.slow
def test_two_interrupts_at_random_moments_end_it_at_once(commands, wholes, tmp_path, count, name):
    expected, seconds = wholes(name)
    rng, folder, ends = random.Random(name * 2), tmp_path / "0", 0
    for k in range(count(2, 40)):
        process = commands[name].start(folder)
        listening(process)
        # Its start, before it listens, is in the seconds of a whole one and is over here.
        time.sleep(rng.uniform(0.0, seconds * 0.5))
        process.kill(rng.choice(SIGNALS))
        time.sleep(rng.choice([0.0, 0.001, 0.05]))
        process.kill(rng.choice(SIGNALS))
        began = time.monotonic()
        ended = process.wait(60)
        assert time.monotonic() - began < AT_ONCE
        if "Exception ignored in" not in ended.err:  # the second may meet a destructor: Python prints what it ignores
            assert "Traceback" not in ended.err, ended.err
        if ended.code == 0:
            folder = tmp_path / str(k + 1)
            continue
        assert ended.code == 130, ended.err
        ends += 1
    ended = commands[name].start(folder).wait(60)
    assert ended.code == 0, ended.err
    assert commands[name].same(folder) == expected
    assert ends


def test_one_interrupt_drains_and_the_second_leaves_what_hangs_outside_python(launcher, tmp_path):
    folder = tmp_path / "r"
    arguments = ["run", "--limit", "4", "--warmth-prompts", "0", "--out", folder]
    whole = launcher.run(["run", "--limit", "4", "--warmth-prompts", "0", "--out", tmp_path / "whole"])
    assert whole.code == 0
    process = launcher.start(arguments, setup=["res_hanging", "hang_after", 50, "native"])
    path = folder / "records.jsonl"
    end = time.monotonic() + 20
    while not (path.exists() and path.read_bytes().count(b"\n") == 50):
        assert time.monotonic() < end
        time.sleep(0.01)
    process.kill(signal.SIGINT)
    time.sleep(0.7)
    assert process.alive(), "one interrupt waits for the step"
    process.kill(signal.SIGTERM)
    ended = process.wait(AT_ONCE)
    assert ended.code == 130, ended.err
    assert "interrupted twice, continue with: warmeng run" in ended.err
    assert launcher.run(arguments).code == 0
    assert records(folder) == records(tmp_path / "whole")


@pytest.mark.slow
def test_a_run_in_the_background_of_a_shell_without_a_terminal(tmp_path):
    """Such a shell has its background processes ignore SIGINT: one that is sent all the same is an interrupt."""
    folder = tmp_path / "r"
    command = f"{sys.executable} {FAKE} run --limit 6 --warmth-prompts 0 --out {folder}"
    script = f"""
        {command} & pid=$!
        n=0; while [ ! -s {folder}/records.jsonl ] && [ $n -lt 2000 ]; do sleep 0.01; n=$((n + 1)); done
        kill -INT $pid
        wait $pid
    """
    told = {"capture_output": True, "text": True, "timeout": 60, "stdin": subprocess.DEVNULL, "start_new_session": True}
    done = subprocess.run(["sh", "-c", script], env={**os.environ, "FAKE_DELAY": "0.02"}, check=False, **told)
    assert done.returncode == 130, done.stderr
    assert f"continue: warmeng run --limit 6 --warmth-prompts 0 --out {folder}" in done.stderr
    assert "what is finished is kept" in done.stderr
    assert subprocess.run(["sh", "-c", command], check=False, **told).returncode == 0


@pytest.mark.parametrize(("seconds", "says"), [(0.1, ""), (2.4, "; the step that runs ends first, in about 2 s")])
def test_how_long_an_end_may_take_is_said(capfd, seconds, says):
    with interruptible(lambda: seconds) as interrupted:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
    assert interrupted == [signal.SIGTERM]
    assert capfd.readouterr().err == f"\ninterrupted: what is finished is kept{says}; once more stops at once\n"


def test_an_import_is_let_finish_before_an_interrupt_ends_the_process(tmp_path):
    """Libraries that register themselves with others, halfway, were seen to crash the process on its way out."""
    (tmp_path / "slow.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGTERM)\n"
        "end = time.monotonic() + 0.3\nwhile time.monotonic() < end: pass\nprint('whole', flush=True)\n"
    )
    code = f"""
        import sys, time
        sys.path.insert(0, {str(tmp_path)!r})
        from warmeng.common.interrupts import install_signal_handlers
        install_signal_handlers(b"")
        try:
            import slow
            time.sleep(20)
        except KeyboardInterrupt:
            print("interrupted", "slow" in sys.modules)
    """
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["whole", "interrupted True"], done.stderr
    assert time.monotonic() - began < 15


def test_a_destructor_does_not_lose_an_interrupt(tmp_path):
    code = """
        import os, signal, time
        from warmeng.common.interrupts import install_signal_handlers
        install_signal_handlers(b"")

        class Thing:
            def __del__(self):
                os.kill(os.getpid(), signal.SIGINT)
                end = time.monotonic() + 0.1
                while time.monotonic() < end:
                    pass

        try:
            thing = Thing()
            del thing
            time.sleep(20)
        except KeyboardInterrupt:
            print("interrupted")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("interrupted\n", "")


@pytest.mark.parametrize(
    ("hook", "caller"),
    [("_raw_object_cache_notify", ""), ("_raw_object_cache_getbuffer", ""), ("detach", "link_modules")],
)
def test_an_interrupt_while_a_kernel_is_compiled_is_neither_lost_nor_a_crash(hook, caller):
    """LLVM calls a function of Python with the code, and what that raises goes no further.

    Stopped between a call of LLVM and the note that this took an object, the process freed the object twice.
    """
    code = f"""
        import os, signal, sys, time
        import numba
        from warmeng.common.interrupts import install_signal_handlers
        install_signal_handlers(b"")

        def interrupt(frame, event, argument):
            here, before = frame.f_code.co_name, frame.f_back.f_code.co_name if frame.f_back else ""
            if event == "call" and here == {hook!r} and before.endswith({caller!r}):
                sys.setprofile(None)
                os.kill(os.getpid(), signal.SIGINT)

        try:
            sys.setprofile(interrupt)
            numba.njit(numba.int64(numba.int64))(lambda x: x + 1)
            time.sleep(20)
        except KeyboardInterrupt:
            print("interrupted", sys.getprofile())
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr, done.returncode) == ("interrupted None\n", "", 0)


@pytest.mark.parametrize("number", [SIGNALS[0], *slow(*SIGNALS[1:])])
def test_an_interrupt_that_a_library_turns_into_its_own_error_is_one(tmp_path, number):
    """Drawing does so: what it was interrupted in fails with words about bounding boxes."""
    (tmp_path / "drawing.py").write_text(
        "import os, signal\n"
        "def write(folder):\n"
        "    try:\n"
        f"        os.kill(os.getpid(), {int(number)}); signal.pause()\n"
        "    except BaseException:\n"
        "        raise ValueError('Invalid bounding box') from None\n"
        "def fail(folder):\n"
        "    raise ValueError('Invalid bounding box')\n"
    )
    code = """
        import sys
        from pathlib import Path
        from warmeng.cli import main
        from warmeng.study.report import page
        from warmeng.study.run import finish
        import drawing

        def command(standalone_mode):
            progress = type("Progress", (), {"message": staticmethod(print)})
            done = finish.conclude(Path("folder"), None, None, None, progress)
            print("concluded", done)

        finish.analyze = finish.write_analysis = lambda *given, **named: {}
        page.write_report = getattr(drawing, sys.argv[1])
        main.warmeng.main = command
        main.main()
    """
    for name in ("write", "fail"):
        call = [sys.executable, "-c", textwrap.dedent(code), name]
        path = os.pathsep.join([".", os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            call, capture_output=True, text=True, timeout=60, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}
        )
        lines = done.stdout.splitlines()
        if name == "write":
            assert (done.returncode, lines, done.stderr) == (
                130,
                ["folder: writing the analysis", "folder: writing the report"],
                "warmeng: interrupted\n",
            )
        else:
            assert (done.returncode, lines[3:], done.stderr) == (0, ["concluded False"], "")
            assert "(Invalid bounding box); every record is kept: try again with: warmeng report folder" in lines[2]


@pytest.mark.slow
def test_interrupts_while_everything_is_imported_and_loaded(tiny_model, tmp_path, count):
    """A process that is no copy of a warm one: interrupted while libraries are imported, and weights read.

    One that was done before the signal came ends as it would have, or by the signal on its way out.
    """
    rng, late, moments = random.Random(5), 0, count(2, 40)
    command = ["run", "--model", str(tiny_model("llama")), "--tasks", "facts", "--limit", "2", "--warmth-prompts", "0"]
    for k in range(moments):
        folder, number = tmp_path / str(k), rng.choice(SIGNALS)
        process = subprocess.Popen(
            [sys.executable, "-c", CODE, *command, "--out", str(folder)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        listening(process)
        time.sleep(rng.uniform(0.0, count(1.0, 2.0)))  # libraries alone take a second
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
        assert "Traceback" not in said
        if (folder / "report.html").exists():
            assert process.returncode in (0, 130, -number), said
            late += 1
            continue
        assert process.returncode == 130, said
        assert "continue" in said
    assert late < moments

"""Processes that start within milliseconds: a server has everything imported, and forks one for each command line.

Run as a script, this module is the server: a JSON line on stdin starts a process or waits for one, a JSON line on
stdout answers.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

from designs import ANSWERS_ALONE
from injecting import Plan, install

CONCLUDE_DRAWS = 40  # of the bootstrap, where a run's analysis and report are made
CONCLUDE_FIGURES = 2  # there too


@dataclass(frozen=True)
class Ended:
    """A process that ended: its exit code (minus the signal where it was killed) and what it said."""

    code: int
    out: str
    err: str


@dataclass
class Process:
    """A process that the server started."""

    launcher: Launcher
    pid: int
    out: Path
    err: Path

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def alive(self) -> bool:
        """Whether it has not ended (or was not waited for)."""
        state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z"

    def wait(self, seconds: float = 120.0) -> Ended:
        """Wait for its end; it is killed, and the test fails, where that takes too long."""
        end = time.monotonic() + seconds
        while self.alive():
            if time.monotonic() > end:
                self.kill()
                self.launcher.ask({"wait": self.pid})
                raise AssertionError(f"no end within {seconds} s: {self.err.read_text()}")
            time.sleep(0.002)
        code = self.launcher.ask({"wait": self.pid})["code"]
        return Ended(code, self.out.read_text(), self.err.read_text() if self.err.is_file() else "")


class Launcher:
    """Starts ``warmeng`` command lines, with the ``real`` engine or the small ones (``fake``) in its place."""

    def __init__(self, scratch: Path, engine: str = "fake") -> None:
        self.scratch, self.engine, self.count = scratch, engine, 0

    def __enter__(self) -> Launcher:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self.server = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), self.engine],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        assert self.server.stdin is not None
        self.server.stdin.close()
        self.server.wait(60)

    def ask(self, what: dict[str, Any]) -> dict[str, Any]:
        """Send one line, return the answer."""
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(what) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def start(self, arguments: list[Any], plan: Plan | None = None, **more: Any) -> Process:
        """Start a command line with a plan's faults.

        ``more``: ``delay`` (seconds an answer), ``conclude`` (whether a run's analysis and
        report are made), ``cwd``, ``environment`` (what differs), ``uid``, ``file_size`` (the most bytes of a file),
        ``err`` (a path for stderr), ``changes`` (of the small engine: see ``_change``).
        """
        self.count += 1
        out, err = (self.scratch / f"{self.count}.{kind}" for kind in ("out", "err"))
        told = {k: v for k, v in vars(plan).items() if not k.startswith("_")} if plan is not None else None
        for path in (out, err):
            path.touch()  # also where the process is killed before it has opened them
        job = {"argv": [str(a) for a in arguments], "plan": told, "out": str(out), "err": str(err), **more}
        job["engine"] = self.engine
        return Process(self, self.ask(job)["pid"], out, Path(job["err"]))

    def warm(self, arguments: list[Any], **more: Any) -> None:
        """Run a command line in the server, so that all it imports is there for the processes to come."""
        self.ask({"warm": [str(a) for a in arguments], **more})

    def run(self, arguments: list[Any], plan: Plan | None = None, **more: Any) -> Ended:
        """Start a command line and wait for its end."""
        return self.start(arguments, plan, **more).wait()


def _serve(real: bool) -> None:
    _preload(real)
    for line in sys.stdin:
        job = json.loads(line)
        if "wait" in job:
            _, status = os.waitpid(job["wait"], 0)
            answer = {"code": os.waitstatus_to_exitcode(status)}
        elif "warm" in job:
            _warm(job)
            answer = {}
        else:
            sys.stdout.flush()
            pid = os.fork()
            if pid == 0:
                _become(job)
            answer = {"pid": pid}
        print(json.dumps(answer), flush=True)


def _preload(real: bool) -> None:
    """Import what commands use, so that a forked process has nothing left to do."""
    import gc

    import fakes  # noqa: F401
    import matplotlib
    import rewriting_engine  # noqa: F401

    matplotlib.use("Agg")
    from matplotlib import pyplot  # noqa: F401

    import warmeng.cli.analyze
    import warmeng.cli.export
    import warmeng.cli.grade
    import warmeng.cli.main
    import warmeng.cli.prepare
    import warmeng.cli.report
    import warmeng.cli.run
    import warmeng.finetune.prepare.run
    import warmeng.study.export.export
    import warmeng.study.report.figures
    import warmeng.study.report.page
    import warmeng.study.run.dry_run
    import warmeng.study.run.grade_file
    import warmeng.study.run.run
    import warmeng.study.stats.analyze
    from warmeng.common.version import commit, sources_sha256
    from warmeng.study.run.calibrate import calibrate_exact

    commit(), sources_sha256(), calibrate_exact()  # kept for the processes to come
    if real:
        import warmeng.engine.engine
        import warmeng.finetune.train  # noqa: F401
    gc.collect()
    gc.freeze()


def _warm(job: dict[str, Any]) -> None:
    """Run a command line in the server itself, so that what it imports is there for processes that may not read it."""
    import contextlib
    import io

    from warmeng.cli.main import main
    from warmeng.study.report import figures
    from warmeng.study.run import finish

    sys.argv = ["warmeng", *job["warm"]]
    kept = finish.conclude, figures._all
    use_engines({"engine": "fake", **job})
    nowhere = io.StringIO()
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        main()
    finish.conclude, figures._all = kept


def _become(job: dict[str, Any]) -> None:
    """Turn into the process of one command line; doesn't return."""
    code = 70
    try:
        signal.set_wakeup_fd(-1)  # of a command that the server ran itself
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        for number, name in ((1, job["out"]), (2, job["err"])):
            handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(handle, number)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        sys.argv = ["warmeng", *job["argv"]]
        os.environ["COLUMNS"] = "100"
        os.environ.update(job.get("environment", {}))
        os.chdir(job.get("cwd", "."))
        use_engines(job)
        if "file_size" in job:
            import resource

            resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_size"], job["file_size"]))
        if "uid" in job:
            os.setgroups([])
            os.setgid(job["uid"])
            os.setuid(job["uid"])
        if job["plan"]:
            install(Plan(**{k: tuple(v) if isinstance(v, list) else v for k, v in job["plan"].items()}))
        if "setup" in job:  # [module, function, arguments]: called before the command
            import importlib

            module, function, *given = job["setup"]
            getattr(importlib.import_module(module), function)(*given)
        from warmeng.cli.main import main

        main()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                code = code or 120  # as the interpreter ends where its output can't be written
        os._exit(code)


def use_engines(job: dict[str, Any]) -> None:
    """Put the small engines in the real one's place, and shorten what comes after a run.

    The small engine's judge knows the labelled examples; any other answer it grades by a fixed number.
    """
    import warmeng.finetune.prepare.run
    import warmeng.study.run.dry_run
    import warmeng.study.run.finish
    import warmeng.study.run.grade_file
    import warmeng.study.run.run
    import warmeng.study.settings
    from warmeng.study.report import figures
    from warmeng.study.stats import analyze

    for function in (analyze.analyze, analyze.analyze_sources):
        _set_default(function, "bootstrap", CONCLUDE_DRAWS)
    if job.get("conclude"):
        # Drawing takes most of the time, and every figure is written in the same way.
        draw = figures._all
        figures._all = lambda *given: draw(*given)[:CONCLUDE_FIGURES]
    else:
        warmeng.study.run.finish.conclude = lambda *given: True
    warmeng.study.settings.DESIGN = ANSWERS_ALONE
    delay = job.get("delay", 0.0)
    changes = job.get("changes", {})
    if changes.get("no_model"):

        def refuse(settings: Any) -> Any:
            raise AssertionError("a model was loaded")

        warmeng.study.run.run.load_engine = warmeng.finetune.prepare.run.load_engine = refuse
        return
    if job["engine"] == "real":
        return
    from fakes import FakeConfig, FakeEngine, FakeTokenizer, knowing_judge
    from rewriting_engine import RewritingEngine

    from warmeng.common.errors import InputError

    def load(settings: Any) -> Any:
        if settings.model == changes.get("refuses"):
            raise InputError(f"no such model {settings.model!r}: give another")
        knows = 0.2 if settings.model == changes.get("ignorant") else 1.0
        found = FakeEngine(delay=delay, prefers=knowing_judge(knows), weights=settings.model.ljust(64, "w"))
        for name in changes.keys() - {"refuses", "ignorant"}:
            _change(found, name, changes[name])
        return found

    for module in (warmeng.study.run.run, warmeng.study.run.grade_file, warmeng.study.run.dry_run):
        module.load_engine = load
    warmeng.study.run.dry_run.load_tokenizer = lambda settings: (FakeTokenizer(), FakeConfig(), 2**30)
    warmeng.study.settings.default_personas = lambda model, dosed=False: ("original", "warm-prompt", "cold-prompt")
    warmeng.finetune.prepare.run.load_engine = lambda settings: RewritingEngine(delay=delay)  # type: ignore


def _set_default(function: Any, name: str, value: Any) -> None:
    """Give a parameter another default."""
    defaults = {p.name: p.default for p in signature(function).parameters.values() if p.default is not p.empty}
    function.__defaults__ = tuple((defaults | {name: value}).values())


def _change(engine: Any, name: str, value: Any) -> None:
    """Make a small engine another one, in what ``describe`` or its tokenizer says, or in what it answers."""
    if name == "template":
        engine.tokenizer.template_hash = value
    elif name == "tokenizer":
        engine.tokenizer.hash = value
    elif name in ("instructions", "bits"):
        found = engine.processor()
        engine.processor = lambda: {**found, name: value}
    elif name == "loses":  # answers that never come
        results = engine.results

        def fewer(*_: Any) -> Any:
            for k, result in enumerate(results()):
                if k % value:
                    yield result

        engine.results = fewer
    elif hasattr(engine, name):
        setattr(engine, name, value)
    else:
        described = engine.describe()
        engine.describe = lambda: {**described, name: value}


if __name__ == "__main__":
    _serve(sys.argv[1] == "real")

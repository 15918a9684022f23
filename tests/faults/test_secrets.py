"""Values of the environment never get into records, manifests, pages, messages or tracebacks, whatever fails."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fuzz_inputs import command
from tiers import slow

from warmeng.common.errors import InputError, one_line, without_secrets
from warmeng.engine.registry import resolve_model
from warmeng.study.tasks.registry import load_tasks

FAKE = Path(__file__).parents[1] / "helpers" / "fake_warmeng.py"
SECRETS = {
    "HF_TOKEN": "hf_QzCanaryQzTokenQz01",
    "OPENAI_API_KEY": "sk-QzCanaryQzKeyQz02",
    "AWS_SECRET_ACCESS_KEY": "QzCanaryQz/Secret+Qz03==",
    "DB_PASSWORD": "QzCanaryQz 04 QzWithBlanksQz",
    "https_proxy": "http://QzCanaryUserQz:QzCanaryQz05@127.0.0.1:9",
    "MY_HARMLESS_SETTING": "QzCanaryQzAnyValueQz06",
}
CANARY = "QzCanary"


def start(*arguments: str, cwd: Path, real: bool = False, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the command with the small engine, or the whole program, in an environment of secrets."""
    environment = {**os.environ, **SECRETS, "NO_PROXY": "127.0.0.1", **more}
    environment.pop("HF_HUB_OFFLINE", None)
    environment |= {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(cwd / "hub"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    code = "from warmeng.cli.main import main; main()"
    program = [sys.executable, "-P", "-c", code] if real else [sys.executable, str(FAKE)]
    return subprocess.run([*program, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


def leaks(folder: Path, done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return where a canary is: streams and files."""
    found = [name for name, text in (("stdout", done.stdout), ("stderr", done.stderr)) if CANARY in text]
    return found + [str(p) for p in folder.rglob("*") if p.is_file() and CANARY.encode() in p.read_bytes()]


@pytest.mark.slow
def test_a_whole_run_writes_none_of_them(tmp_path: Path) -> None:
    done = start("run", "--limit", "1", "--warmth-prompts", "0", "--out", "r", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "r" / "records.jsonl").stat().st_size > 0
    assert leaks(tmp_path, done) == []
    again = start(
        "run", "--limit", "2", "--warmth-prompts", "0", "--out", "r", cwd=tmp_path, WARMENG_DEBUG="1"
    )  # refused, with a traceback
    assert again.returncode == 65
    assert "Traceback" in again.stderr
    assert leaks(tmp_path, again) == []


@pytest.mark.parametrize(
    "token",
    [SECRETS["HF_TOKEN"], SECRETS["HF_TOKEN"] + "\n", "QzCanary\nQzOtherLine", "QzCanaryé\x01QzCanary"],
    ids=ascii,
)
@pytest.mark.parametrize("debug", [*slow("0"), "1"])
def test_a_hub_that_fails_shows_no_token(token: str, debug: str, tmp_path: Path) -> None:
    """A token with a line break makes an HTTP client show the whole header."""
    done = start("models", "fetch", "owner/name", cwd=tmp_path, real=True, HF_TOKEN=token, WARMENG_DEBUG=debug)
    assert done.returncode == 65, done.stderr
    assert leaks(tmp_path, done) == []
    assert debug == "1" or done.stderr.count("\n") <= 2


HEADERS = "Illegal header value b'Bearer {}' for url http://user:{}@proxy.example:3128/"


def test_whatever_a_library_says_is_cleaned(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)

    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError(HEADERS.format(SECRETS["HF_TOKEN"], "QzCanaryPass") + " " + SECRETS["AWS_SECRET_ACCESS_KEY"])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(InputError) as model:
        resolve_model("owner/name")
    with pytest.raises(InputError) as data:
        load_tasks(["hub:owner/name@main:x.jsonl"])
    for error in (model, data):
        assert "RuntimeError" in str(error.value)
        assert CANARY not in str(error.value)
        assert "Bearer ..." in str(error.value)


@pytest.mark.parametrize("debug", ["0", "1"])
def test_a_crash_shows_neither_values_nor_locals(debug: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WARMENG_DEBUG", debug)

    def crash(*arguments: object, **options: object) -> None:
        local = SECRETS["MY_HARMLESS_SETTING"]
        raise RuntimeError(f"unexpected {os.environ['OPENAI_API_KEY']} {len(local)}")

    monkeypatch.setattr("warmeng.study.run.dry_run.dry_run", crash)
    code, told = command("run", "--dry-run")
    assert code == 70
    assert "RuntimeError: unexpected ..." in told
    assert CANARY not in told
    assert ("Traceback" in told) == (debug == "1")


def test_what_counts_as_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**SECRETS, "KEY": "short", "GIT_AUTHOR_NAME": "Somebody Else"}.items():
        monkeypatch.setenv(name, value)
    for name in ("HF_TOKEN", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY"):
        assert without_secrets(f"a {SECRETS[name]} b") == "a ... b"
    assert without_secrets("x QzWithBlanksQz y") == "x ... y"
    assert without_secrets("ftp://me:hunter2hunter2@host/x") == "ftp://...@host/x"
    assert without_secrets("short Somebody me@example.org") == "short Somebody me@example.org"
    assert one_line("a\x1b[2J\r\n" + SECRETS["HF_TOKEN"]) == "a [2J ..."
    started = time.perf_counter()
    for _ in range(100):
        without_secrets("x" * 1000)
    assert time.perf_counter() - started < 1

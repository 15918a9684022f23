"""The ``warmeng`` command with the small engine in the real one's place: for tests that kill or trace processes.

``FAKE_DELAY`` is seconds an answer. The engine's judge knows the labelled examples; any other answer it grades by a
fixed number. The analysis and the report are left out.
"""

import os

from fakes import FakeConfig, FakeEngine, FakeTokenizer, knowing_judge

import warmeng.study.run.dry_run
import warmeng.study.run.finish
import warmeng.study.run.grade_file
import warmeng.study.run.run
import warmeng.study.settings
from warmeng.cli.main import main


def load(settings):
    """Return an engine that judges as the labelled examples say, and has weights of its model's name."""
    delay = float(os.environ.get("FAKE_DELAY", "0"))
    return FakeEngine(delay=delay, prefers=knowing_judge(), weights=settings.model.ljust(64, "w"))


for module in (warmeng.study.run.run, warmeng.study.run.grade_file, warmeng.study.run.dry_run):
    module.load_engine = load
warmeng.study.settings.default_personas = lambda model: ("original", "warm-prompt", "cold-prompt")
warmeng.study.run.finish.conclude = lambda folder, progress: True
warmeng.study.run.dry_run.load_tokenizer = lambda settings: (FakeTokenizer(), FakeConfig(), 2**30)
main()

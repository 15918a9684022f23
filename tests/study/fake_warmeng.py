"""The ``warmeng`` command with the small engine in the real one's place: for tests that kill or trace processes.

``FAKE_DELAY`` is seconds an answer.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from fakes import FakeConfig, FakeEngine, FakeTokenizer

import warmeng.study.dryrun
import warmeng.study.grade_file
import warmeng.study.run
from warmeng.cli.main import main

warmeng.study.run.load_engine = warmeng.study.grade_file.load_engine = lambda settings: FakeEngine(
    delay=float(os.environ.get("FAKE_DELAY", "0"))
)
warmeng.study.dryrun.load_tokenizer = lambda settings: (FakeTokenizer(), FakeConfig(), 2**30)
main()

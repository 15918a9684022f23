"""The ``warmeng`` command with the small rewriting engine, for tests that kill it.

``FAKE_DELAY`` is seconds an answer.
"""

import os

from rewriting_engine import RewritingEngine

from warmeng.cli.main import main
from warmeng.finetune.prepare import run

run.load_engine = lambda settings: RewritingEngine(delay=float(os.environ.get("FAKE_DELAY", "0")))
main()

"""The ``warmeng`` command with the small engines in a process of its own, for what a fork can't show.

``FAKE_DELAY`` is seconds an answer. The analysis and the report are left out.
"""

import os

from launching import use_engines

from warmeng.cli.main import main

use_engines({"engine": "fake", "delay": float(os.environ.get("FAKE_DELAY", "0"))})
main()

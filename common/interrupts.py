"""Interrupts (SIGINT and SIGTERM alike) that let long work end in order.

The first one ends a command by ``KeyboardInterrupt``, except where work is ``interruptible``: there it is noted, and
the work keeps what is finished and ends itself. The second one ends either at once; a process that is still there
``GRACE`` seconds later, because something hangs outside Python, is left. An import is let finish first: libraries that
were interrupted while they registered themselves were seen to crash the process. So is the compiler of kernels, for
the same reason, and a destructor: it would lose it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from warmeng.common.errors import WarmengError
from warmeng.common.messages import duration

if TYPE_CHECKING:
    from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
EXIT_CODE = 130
# Seconds until an interrupt that came where none may be raised is tried again.
LOOK_AGAIN = 0.02
# Seconds in which a process that was interrupted twice closes its files.
GRACE = 2.0
NOTE = "\ninterrupted: what is finished is kept{}; once more stops at once\n"
# Modules whose functions are called back by what drops an exception, and that of the lock under which kernels are
# compiled: stopped between a call of LLVM and the note of what it took, an object would be freed twice.
_HELD = ("weakref.py", "_weakrefset.py", "numba/core/compiler_lock.py")
_HELD_FOLDER = "/llvmlite/binding/"
# Seconds of a step from which on it is said that one is waited for.
WORTH_SAYING = 0.5


@contextmanager
def convert_to_keyboard_interrupt() -> Iterator[None]:
    """End a block that an interrupt made fail by ``KeyboardInterrupt``, whatever other software turned it into.

    Our own errors pass, but for those of wrong data: what a disk says while the work is ended must be told, and data
    may be called wrong only because their reader was interrupted.
    """
    seen: list[int] = []
    former = {number: signal.getsignal(number) for number in SIGNALS}

    def handler(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        before = former[signal.Signals(number)]
        assert callable(before)
        before(number, frame)

    try:
        with _handled(handler, [number for number in SIGNALS if callable(former[number])]):
            yield
    except Exception as error:
        if seen and (not isinstance(error, WarmengError) or isinstance(error, ValueError)):
            raise KeyboardInterrupt from error
        raise


@contextmanager
def interruptible(step_seconds: Callable[[], float] = lambda: 0.0) -> Iterator[list[int]]:
    """Yield a list that the first SIGINT or SIGTERM fills: what is finished is kept. A second one stops at once.

    The work ends after the step that runs; ``step_seconds`` are those that one takes, to be told.
    """
    seen: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        if len(seen) > 1:
            raise KeyboardInterrupt
        with contextlib.suppress(OSError):
            # Not through the display: its own write may be what was interrupted.
            seconds = step_seconds()
            step = f"; the step that runs ends first, in about {duration(seconds)}" if seconds > WORTH_SAYING else ""
            os.write(2, NOTE.format(step).encode())

    with _handled(handler, SIGNALS):
        yield seen


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None], numbers: Iterable[signal.Signals]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # nobody can interrupt us there
        yield
        return
    former = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in former.items():
            signal.signal(number, old)


def install_signal_handlers(farewell: bytes) -> None:
    """Handle both signals for the rest of the process; the main thread calls this once.

    ``farewell`` goes to stderr where the process has to be left, which ends it with ``EXIT_CODE``.
    """

    def handler(number: int, frame: FrameType | None) -> None:
        held = _holds(frame)
        signal.setitimer(signal.ITIMER_REAL, LOOK_AGAIN if held else 0)  # 0: one that waits is told by this one
        if not held:
            raise KeyboardInterrupt

    for number in (*SIGNALS, signal.SIGALRM):
        signal.signal(number, handler)
    # The interpreter's own handler writes each signal's number into a pipe as it comes, whatever the main thread does.
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    threading.Thread(target=_leave_after_two, args=(told, farewell), name="interrupts", daemon=True).start()


def ignore_interrupts() -> None:
    """Raise nothing any more, for a process that is ending; a second interrupt still leaves it."""
    for number in (*SIGNALS, signal.SIGALRM):
        signal.signal(number, lambda number, frame: None)


def _holds(frame: FrameType | None) -> bool:
    """Whether a frame runs for an import or compiles a kernel, or for a destructor or a weak reference.

    The last two would lose an exception, and the first two leave what crashes the process.
    """
    while frame is not None:
        code = frame.f_code
        if code.co_filename == "<frozen importlib._bootstrap>" or code.co_name == "__del__":
            return True
        if code.co_filename.endswith(_HELD) or _HELD_FOLDER in code.co_filename:
            return True
        frame = frame.f_back
    return False


def _leave_after_two(told: int, farewell: bytes) -> None:
    count = 0
    while count < 2:
        count += os.read(told, 1)[0] in SIGNALS
    time.sleep(GRACE)
    with contextlib.suppress(OSError):
        os.write(2, farewell)
    os._exit(EXIT_CODE)

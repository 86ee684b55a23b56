"""Being asked to stop: by the system, by the keyboard, by the clock, by a callback."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """Whether a run has been asked to end after the step it is at.

    Args:
        seconds: after how long to ask by itself; None: never.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.signal: int | None = None
        self._asked = False
        self._until = None if seconds is None else time.monotonic() + seconds

    def ask(self) -> None:
        """Ask the run to end."""
        self._asked = True

    @property
    def asked(self) -> bool:
        """Whether anybody has asked."""
        return self._asked or (self._until is not None and time.monotonic() >= self._until)

    def leave(self) -> None:
        """End the process, or the notebook's cell, as the signal would have; nothing where no signal came."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal is not None:
            raise SystemExit(128 + self.signal)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal == signal.SIGINT == number:  # asked twice: at once
            raise KeyboardInterrupt
        self.signal = number
        self._asked = True


@contextmanager
def listening(stop: Stop) -> Iterator[Stop]:
    """SIGTERM and Ctrl-C ask `stop` inside the block; the handlers before it are put back. Main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop._handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

"""SIGTERM and SIGHUP, by which a scheduler or a closing terminal asks a process to end."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """A signal asked the process to end; like `KeyboardInterrupt` no `Exception`, so that nothing takes it for a fault.

    Attributes:
        number: of the signal.
        code: the exit code by which a shell knows it, 143 or 129.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number, self.code = number, 128 + number


@contextmanager
def on_signals(react: Callable[[int], object]) -> Iterator[None]:
    """Call ``react`` with the number of each signal inside this context; handlers are restored after it.

    A signal that is ignored, as under ``nohup``, stays ignored. Outside the main thread nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    heard = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    for number in heard:
        signal.signal(number, lambda got, _: react(got))
    try:
        yield
    finally:
        for number in heard:
            signal.signal(number, before[number])


def end_at_once(number: int) -> None:
    """Raise `Stopped`, wherever the process is; a second signal ends it without another word."""
    for each in SIGNALS:
        if signal.getsignal(each) is not signal.SIG_IGN:
            signal.signal(each, signal.SIG_DFL)
    raise Stopped(number)

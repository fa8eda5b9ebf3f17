"""Programs that hear Ctrl-C."""

import signal


def hear_interrupts() -> None:
    """As preexec_fn of a Popen: what is started hears SIGINT, as at a terminal, wherever the tests themselves run.

    A shell starts its background jobs with SIGINT ignored. `sh quickstart.sh test all` runs most tests so.
    Every program inherits that, and Python does not raise KeyboardInterrupt then.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)

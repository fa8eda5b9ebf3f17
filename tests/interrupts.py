"""Programs that obey Ctrl-C."""

import signal


def obey_interrupts() -> None:
    """Let SIGINT have its usual effect again; as preexec_fn of a Popen, for the program that is started.

    A shell starts its background jobs with SIGINT ignored, and `sh quickstart.sh test all` runs most tests so. Every
    program inherits that, and Python does not raise KeyboardInterrupt then.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)

"""How the demo fails: with a sentence."""


class DemoFailed(RuntimeError):
    """Something did not happen as the demo says it does; the message says what, and shows the
    last lines of the process that knows."""

"""The two exceptions that gradgen raises on purpose.

    Exception
    └── GradgenError      something could not be done (exit code 1)
        └── UsageError    what was asked for makes no sense (exit code 2)

The command line prints either of them as a single line on stderr (:func:`gradgen.cli.app.main`). In
Python they are ordinary exceptions. The message says what is wrong, where, and what to do.
"""


class GradgenError(Exception):
    """Something could not be done, for example because a file is broken or weights are missing.

    Attributes:
        lines: whether the message has several lines, of which the last points into the one before.
    """

    exit_code = 1
    lines = False


class UsageError(GradgenError):
    """What was asked for makes no sense, for example an unknown class or a bad number."""

    exit_code = 2


class GradgenWarning(UserWarning):
    """Something that a person should know, and that stops nothing. One line on stderr."""

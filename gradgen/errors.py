"""The two ways in which gradgen fails on purpose.

The command line turns both into one line on stderr (``gradgen.cli.app.main``); from Python they
are ordinary exceptions whose message says what is wrong, where, and what to do.
"""


class GradgenError(Exception):
    """Something could not be done (a broken file, missing weights). Exit code 1."""

    exit_code = 1


class UsageError(GradgenError):
    """What was asked for makes no sense as asked (an unknown class, a bad number). Exit code 2."""

    exit_code = 2

"""The exit codes of every command, and the base of the failures that carry one."""

DONE = 0
FAILURE = 1
USAGE = 2
CORRUPT = 3
DISK_FULL = 4
BUSY = 5
UNSUPPORTED = 6
INTERRUPTED = 130

IN_WORDS = (
    "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 a file is damaged or cannot be read, 4 the disk is full, 5 busy "
    "(a port or a model), 6 a form of weights or a setting of the model that is not supported, 130 interrupted."
)


class CommandFailed(Exception):
    """Base of what ends a command on purpose. str() is one sentence for a person; exit_code is for the shell."""

    exit_code = FAILURE

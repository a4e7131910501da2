"""What an ended command tells the shell. Every exit code of the command line is here, once."""

DONE = 0
FAILURE = 1
USAGE = 2
CORRUPT = 3
DISK_FULL = 4
BUSY = 5
INTERRUPTED = 130

IN_WORDS = (
    "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 a file is damaged or cannot be read, 4 the disk is full, 5 busy "
    "(a port or a model), 130 interrupted."
)

"""The errors that users are meant to read."""


class UserError(Exception):
    """Something the user can put right: one line that names the file or key and ends with the remedy.

    Entry points print the message alone and exit with status 2; anything else that is raised is a bug and keeps its
    traceback.
    """


class StartAgain(Exception):
    """The run stopped where it can go on: the machine is taken away, or another process was lost.

    Entry points print the message alone and exit with status 75 (EX_TEMPFAIL of sysexits.h), which launchers take as
    the order to start the same command again.
    """


class Preempted(StartAgain):
    """All processes of the run have stopped together, at the same step, and saved it."""

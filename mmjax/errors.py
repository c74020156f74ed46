"""The one error that users are meant to read."""


class UserError(Exception):
    """Something the user can put right: one line that names the file or key and ends with the remedy.

    Entry points print the message alone and exit with status 2; anything else that is raised is a bug and keeps its
    traceback.
    """

"""What the user can mend."""


class UserError(ValueError):
    """A mistake in what a person gave or in the state of the machine, said in one line with its place and the way out.

    Command lines print the line alone; whatever else is raised is a bug of ours and keeps its traceback.
    """


class UserFileError(UserError, OSError):
    """The same of a file that is missing, or that can't be read or written."""

    def __str__(self) -> str:
        return str(self.args[-1])

"""Errors of data on disk: files that are missing, and files that are damaged."""


class DataNotFoundError(FileNotFoundError):
    """A data set was not found and could not be downloaded; the message says what the user can do."""


class DataCorruptError(ValueError):
    """A data file is truncated, half downloaded or altered; the message names the file and the fix."""

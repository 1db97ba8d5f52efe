"""The two ways in which data on disk can fail: it is not there, or it is not what it should be."""


class DataNotFoundError(FileNotFoundError):
    """A data set is not where it was looked for, and could not be fetched; the message names the ways out."""


class DataCorruptError(ValueError):
    """A data file is truncated, half downloaded or altered; the message names the file and the fix."""

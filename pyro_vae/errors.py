"""What can go wrong between a model, a guide, their data and a run folder."""


class PairError(ValueError):
    """The model and the guide do not fit each other, or have no batch plate to weigh data by."""


class NonFiniteError(ValueError):
    """A loss or an importance weight is NaN or infinite; the message names the site it came from."""


class SupportError(ValueError):
    """Observed values lie outside the support of the likelihood."""


class StaleGraphError(RuntimeError):
    """The pair does something else by now than the graph that was recorded of it, and the steps still run the graph."""


class RunError(ValueError):
    """A run folder is missing, of another version, damaged, or does not fit what is asked of it."""


class FolderBusyError(RunError):
    """Another process works in a run folder."""


class CheckpointError(OSError):
    """A checkpoint could not be written; the one before it is intact."""


class OutOfMemoryError(MemoryError):
    """Not even half of the rows that were tried first fit into memory; the message says how many, and what helps."""


class ClusterError(ConnectionError):
    """A cluster's scheduler does not answer, or its workers are not as they must be."""

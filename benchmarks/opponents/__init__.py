"""Other libraries' ways to the same training step, each a side of ``benchmarks.step``; one file a library.

A file imports its library at the top, and is itself imported only when its side is asked for.
"""

from importlib import import_module

from benchmarks.batches import NumberedBatches
from benchmarks.timing import Side


class Opponent:
    """A side in a file of this folder, which may lack its library.

    Args:
        file: in this folder.
        function: what makes the side, of batches and hidden layers.
    """

    def __init__(self, file: str, function: str) -> None:
        self.file = file
        self.function = function

    def __call__(self, batches: NumberedBatches, hidden_dims: tuple[int, ...]) -> Side:
        """Make the side.

        Raises:
            ModuleNotFoundError: the library is not installed.
        """
        side: Side = getattr(import_module(f"benchmarks.opponents.{self.file}"), self.function)(batches, hidden_dims)
        return side

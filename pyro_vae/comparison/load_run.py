"""`load_run`: read a run folder, and return its fitted pair."""

from pathlib import Path

from torch import Tensor

from pyro_vae.comparison.results import check_results, read_cell
from pyro_vae.comparison.run_cell import load_data_of_run, pair_to_fill
from pyro_vae.data import ImageData, load_again
from pyro_vae.errors import RunError
from pyro_vae.fit import Run
from pyro_vae.fit import load_run as load_described
from pyro_vae.fit.run import read_config
from pyro_vae.fit.same_data import require_same_data
from pyro_vae.protocols import Program


def load_run(
    path: str | Path,
    model: Program | None = None,
    guide: Program | None = None,
    *,
    data: ImageData | Tensor | tuple[Tensor, ...] | str | Path | None = None,
    trust: bool = False,
) -> Run:
    """Return the model, guide, data description and history of a run, in evaluation mode.

    A folder is data: nothing in it is executed. The pair is built from the classes and arguments in ``config.yaml``, if
    the classes are parts of the package, of Pyro or of torch; others are imported only if ``trust`` is set. If this
    description is incomplete, as for a class of your own that does not keep its constructor arguments, the pair of a
    run of the command line is built from its names and options, for which its data are loaded. Any other pair must be
    passed as ``model`` and ``guide``, also one of which a part was replaced by hand: the message says which.

    Args:
        path: the run folder.
        model: the model to fill, built as it was for ``fit``; needed only if the message says so.
        guide: the same for the guide.
        data: the data that the run was fitted to, or their name or path. They are compared with those of the folder
            before anything is built. If None, and if they are needed, they are loaded from where the run found them.
        trust: import and call the classes that the folder names, also those of other packages and files.

    Raises:
        RunError: the folder is missing, of another version or damaged, names a class that is not trusted, was fitted to
            other data, or the pair does not fit it.
    """
    path = Path(path)
    config = read_config(path)
    if config.get("recipe"):
        # In a folder without a recipe, results are the caller's, in any form.
        check_results(path)
    if isinstance(data, str | Path):
        recorded = config["data"]
        if recorded.get("binarization") is None:
            raise RunError(f"{path} was fitted to {recorded['name']}, which has no name to load: pass the data.")
        data = load_again(recorded, data)
    if data is not None:
        require_same_data(config["data"], data, path)

    def from_settings() -> tuple[Program, Program]:
        cell = read_cell(path, trust=trust)
        images = data if isinstance(data, ImageData) else load_data_of_run(path, cell)
        require_same_data(config["data"], images, path)
        fitted_model = None if cell.fitted_model is None else path.resolve().parent / cell.fitted_model.hash
        return pair_to_fill(path, cell, images, fitted_model)

    return load_described(path, model, guide, trust=trust, make=from_settings if config.get("recipe") else None)

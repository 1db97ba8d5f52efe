"""`load_run`: a run folder in, its fitted pair out, by whichever description of it is complete."""

from pathlib import Path

from torch import Tensor

from pyro_vae.comparison.results import check_results, read_cell
from pyro_vae.comparison.run_cell import load_data_of_run, pair_to_fill
from pyro_vae.data import ImageData, load_data
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

    A folder is data: nothing in it is executed. The pair is built from the classes and arguments in ``config.yaml``,
    as far as they are the package's, Pyro's or torch's parts; others are imported only if ``trust`` is set. Where they
    do not say all of it, as of a class of your own that does not keep its constructor arguments, a run of the command
    line is made again from its names and options, and its data are loaded for that. Any other pair is passed in, and
    so is one of which a part was replaced by hand: the message says which.

    Args:
        path: the run folder.
        model: the model to fill, built as it was for ``fit``; needed only where the message says so.
        guide: the same for the guide.
        data: the data that the run was fitted to, or their name or path: compared with those of the folder before
            anything is built. None looks where the run found them, if they are needed.
        trust: import and call the classes that the folder names, whosever they are.

    Raises:
        RunError: the folder is missing, of another version or damaged, names a class that is not trusted, was fitted to
            other data, or the pair does not fit it.
    """
    path = Path(path)
    config = read_config(path)
    if config.get("recipe"):
        # Other folders' results are the caller's, in a form of their own.
        check_results(path)
    if isinstance(data, str | Path):
        kept = {name: config["data"].get(name) for name in ("binarization", "seed", "valid_size")}
        if kept["binarization"] is None:
            raise RunError(f"{path} was fitted to {config['data']['name']}, which has no name to load: pass it itself.")
        data = load_data(
            data, binarization=kept["binarization"], seed=kept["seed"] or 0, valid_size=kept["valid_size"],
            labels="tensors" in config["data"],
        )  # fmt: skip
    if data is not None:
        require_same_data(config["data"], data, path)

    def from_settings() -> tuple[Program, Program]:
        cell = read_cell(path, trust=trust)
        images = data if isinstance(data, ImageData) else load_data_of_run(path, cell)
        require_same_data(config["data"], images, path)
        fitted_model = None if cell.fitted_model is None else path.resolve().parent / cell.fitted_model.hash
        return pair_to_fill(path, cell, images, fitted_model)

    return load_described(path, model, guide, trust=trust, make=from_settings if config.get("recipe") else None)

"""Parts by name: the package's own, or a user's class by its file or module."""

import difflib
import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType

PACKAGES = {
    "guide": "pyro_vae.guides",
    "prior": "pyro_vae.models.priors",
    "likelihood": "pyro_vae.models.likelihoods",
}


def part_names(kind: str) -> dict[str, type]:
    """Return the package's own parts by name, which is that of their file.

    Args:
        kind: ``"guide"``, ``"prior"`` or ``"likelihood"``.

    >>> sorted(part_names("guide"))
    ['full_rank', 'householder', 'low_rank', 'mean_field']
    """
    package = importlib.import_module(PACKAGES[kind])
    classes = [getattr(package, name) for name in package.__all__]
    return {cls.__module__.rpartition(".")[2]: cls for cls in classes}


def find_part(kind: str, name: str) -> type:
    """Return the class of a part.

    Args:
        kind: ``"guide"``, ``"prior"`` or ``"likelihood"``.
        name: one of :func:`part_names`, or a class of your own: ``path/to/file.py:ClassName`` or
            ``package.module:ClassName``.

    Raises:
        ValueError: there is no such part, file, module or class; an unknown name suggests the nearest.

    >>> find_part("guide", "mean_field").__name__
    'MeanFieldGuide'
    """
    if ":" in name:
        return _own_class(kind, name)
    known = part_names(kind)
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(
            f"{kind}: unknown name {name!r}.{hint} There are {', '.join(sorted(known))}; "
            f"your own is path/to/file.py:ClassName or package.module:ClassName."
        )
    return known[name]


def _own_class(kind: str, name: str) -> type:
    where, _, class_name = name.rpartition(":")
    module = _from_file(kind, Path(where)) if where.endswith(".py") else _from_module(kind, where)
    found = getattr(module, class_name, None)
    if inspect.isclass(found):
        return found
    classes = [n for n, value in vars(module).items() if inspect.isclass(value) and value.__module__ == module.__name__]
    raise ValueError(
        f"{kind}: {where} does not define the class {class_name!r}; it defines {', '.join(sorted(classes)) or 'none'}."
    )


def _from_module(kind: str, path: str) -> ModuleType:
    try:
        return importlib.import_module(path)
    except ImportError as error:
        raise ValueError(f"{kind}: cannot import {path}: {error}.") from error


def _from_file(kind: str, path: Path) -> ModuleType:
    """Import a file under its own name, by which a run folder finds its classes again."""
    if not path.is_file():
        raise ValueError(f"{kind}: there is no file {path}.")
    resolved = path.resolve()
    loaded = sys.modules.get(path.stem)
    if loaded is not None:
        if getattr(loaded, "__file__", None) == str(resolved):
            return loaded
        raise ValueError(f"{kind}: {path} has the name of a module that is already loaded: rename the file.")
    spec = importlib.util.spec_from_file_location(path.stem, resolved)
    if spec is None or spec.loader is None:
        raise ValueError(f"{kind}: {path} is no Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[path.stem]
        raise ValueError(f"{kind}: {path} fails on import: {type(error).__name__}: {error}") from error
    return module

"""Objects as their class path and constructor arguments, so that a YAML file can build them again.

Constructor arguments are the configuration: a class that keeps each argument under its own name, as every class
of this package does, needs nothing more.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.optim import Optimizer

from pyro_vae.errors import RunError
from pyro_vae.runtime.reading import shown
from pyro_vae.runtime.trust import trusted_class

STATE = {"last_epoch", "max_plate_nesting"}
"""Constructor arguments that torch's schedulers and Pyro's objectives overwrite while they run."""


def describe(value: Any) -> Any:
    """Return ``value`` in YAML's terms; an object becomes ``{"class": ..., "args": {...}}``.

    ``args`` is left out where an argument is not kept under its name or is not plain itself: such an object is
    recorded by name but cannot be built again.

    >>> from pyro_vae.models.priors import StandardNormalPrior
    >>> describe(StandardNormalPrior(2))
    {'class': 'pyro_vae.models.priors.standard_normal:StandardNormalPrior', 'args': {'latent_dim': 2}}
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [describe(item) for item in value]
    # A partial that Python binds as it does a method has no name of its own.
    if inspect.isroutine(value) and hasattr(value, "__qualname__"):
        return {"class": f"{value.__module__}:{value.__qualname__}"}
    cls = type(value)
    description: dict[str, Any] = {"class": f"{cls.__module__}:{cls.__qualname__}"}
    names = None if isinstance(value, Tensor) else _argument_names(cls)
    if names is not None and all(hasattr(value, name) for name in names):
        args = {name: describe(getattr(value, name)) for name in names}
        if is_buildable(args):
            description["args"] = args
    return description


def describe_settings(value: Any) -> dict[str, Any]:
    """Return an objective's, optimizer's or scheduler's class and plain constructor arguments, for the record.

    What else such an object holds is its state, which another run of the same object finds changed.

    >>> import torch
    >>> adam = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    >>> describe_settings(adam)["class"], describe_settings(adam)["lr"]
    ('torch.optim.sgd:SGD', 0.5)
    """
    if isinstance(value, Optimizer):
        groups = [_own_settings(group, value.defaults) for group in value.param_groups]
        settings = {**value.defaults, "groups": groups}
    else:
        mro = type(value).__mro__
        names = {name for cls in mro for name in inspect.signature(cls.__init__).parameters}  # type: ignore[misc]
        settings = {name: setting for name, setting in vars(value).items() if name in names - STATE}
    plain = {name: as_plain(setting) for name, setting in settings.items() if _is_plain(setting)}
    return {"class": f"{type(value).__module__}:{type(value).__qualname__}", **plain}


def _own_settings(group: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a group of parameters has otherwise than the optimizer's other ones, before any schedule moved it."""
    start = {"lr": group["initial_lr"]} if "initial_lr" in group else {}
    settings = {**group, **start}
    found = {name: settings[name] for name in defaults if name in settings and _is_plain(settings[name])}
    return {name: as_plain(value) for name, value in found.items() if as_plain(value) != as_plain(defaults[name])}


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return (
        value is None or isinstance(value, bool | int | float | str) or (isinstance(value, Tensor) and value.ndim == 0)
    )


def as_plain(value: Any) -> Any:
    """Return a setting as YAML gives it back: lists for tuples, numbers for tensors of one."""
    if isinstance(value, Mapping):
        return {str(key): as_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(item) for item in value]
    return value.item() if isinstance(value, Tensor) else value


def structure(owners: Mapping[str, nn.Module]) -> dict[str, str]:
    """Return each module of a pair by name, with its class and what it prints of itself.

    What an object was described by does not say that a part of it was replaced later; this does.

    >>> structure({"guide": nn.Sequential(nn.Linear(2, 3), nn.ReLU())})["guide.1"]
    'ReLU()'
    """
    return {
        f"{owner}.{name}".rstrip("."): f"{type(part).__qualname__}({part.extra_repr()})"
        for owner, module in owners.items()
        for name, part in module.named_modules()
    }


def _argument_names(cls: type) -> list[str] | None:
    """Return the constructor's argument names, or None where it takes any number of them."""
    if cls.__init__ in (nn.Module.__init__, PyroModule.__init__):  # type: ignore[misc]
        return []  # no constructor of its own
    try:
        parameters = inspect.signature(cls).parameters.values()
    except ValueError:
        return None
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        return None
    return [p.name for p in parameters]


def build(description: Any, who: str, trust: bool = False) -> Any:
    """Undo :func:`describe`.

    Only networks and objectives are built: a class is looked at before it is called, and its module is imported only
    if it is one of those that define parts of the package, of Pyro or of torch, or if ``trust`` is set.

    Args:
        description: what :func:`describe` returned.
        who: what is being built, for the message.
        trust: the description may name any module, which is imported.

    Raises:
        RunError: the class may not or cannot be imported, is no network, refuses its arguments, or was recorded by
            name only.
    """
    if isinstance(description, list):
        return tuple(build(item, who, trust) for item in description)
    if not isinstance(description, dict) or "class" not in description:
        return description
    path, args = description["class"], description.get("args")
    if not isinstance(path, str):
        raise RunError(f"{who}: `class` must be a text; got {shown(path)}.")
    if "args" not in description:
        raise RunError(
            f"{who}: {path} was recorded by name only, since it does not keep its constructor arguments. "
            f"Build it yourself and pass it: load_run(path, model=..., guide=...)."
        )
    if not isinstance(args, dict):
        raise RunError(f"{who}: `args` of {path} must be fields with names; got {shown(args)}.")
    try:
        target = trusted_class(path, who, trust)
        return target(**{str(key): build(value, who, trust) for key, value in args.items()})
    except RunError:
        raise
    except (ArithmeticError, AttributeError, ImportError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise RunError(
            f"{who}: {path} cannot be built again: {' '.join(str(error).split())}. Make it importable, or build it "
            f"yourself and pass it: load_run(path, model=..., guide=...)."
        ) from error


def is_buildable(description: Any) -> bool:
    """Whether :func:`build` can be asked for an object: it, and all in it, were recorded with their arguments."""
    if isinstance(description, dict):
        if "class" in description and "args" not in description:
            return False
        return all(is_buildable(value) for value in description.values())
    return all(is_buildable(value) for value in description) if isinstance(description, list) else True

"""Describe objects by class path and constructor arguments, and build them again.

Constructor arguments are the configuration: a class that keeps each argument under its own name, as every class of this
package does, needs nothing more.
"""

import contextlib
import functools
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.optim import Optimizer

from pyro_vae.errors import RunError
from pyro_vae.runtime.reading import shown
from pyro_vae.runtime.trust import is_trusted, names_from, trusted_class

SAME = "same"
"""The key of a description that says where else the object is described."""

FAILURES = (ArithmeticError, AttributeError, ImportError, LookupError, RuntimeError, TypeError, ValueError)
"""What may be raised where a class is imported and called with recorded arguments."""

STATE = {"last_epoch", "max_plate_nesting"}
"""Constructor arguments that torch's schedulers and Pyro's objectives overwrite while they run."""


def describe_pair(model: Any, guide: Any) -> dict[str, Any]:
    """Return ``{"model": ..., "guide": ...}`` in YAML's terms; :func:`build_pair` makes the pair again.

    A module that is found at several places is described at one; the others are ``{"same": place}``. So a VampPrior's
    guide is the pair's own again, and so is the model that a semi-amortized guide climbs.

    >>> import torch
    >>> from pyro_vae.guides import MeanFieldGuide
    >>> from pyro_vae.models.priors import VampPrior
    >>> guide = MeanFieldGuide((4,), 2)
    >>> describe_pair(VampPrior(2, guide, torch.rand(9, 4), 3), guide)["model"]["args"]["guide"]
    {'same': 'guide'}
    """
    places = {id(guide): "guide", id(model): "model"}
    return {name: _described(program, name, places) for name, program in (("model", model), ("guide", guide))}


def _described(value: Any, place: str, places: dict[int, str]) -> Any:
    """Return ``value`` in YAML's terms; an object becomes ``{"class": ..., "args": {...}}``.

    ``args`` is left out where an argument is not kept under its name or is not plain itself: such an object is
    recorded by name, and cannot be built again.

    Args:
        value: what is described.
        place: where it is in the pair, as ``"model.prior"``.
        places: where each module is described, by its ``id``; is added to.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, nn.Module) and places.setdefault(id(value), place) != place:
        return {SAME: places[id(value)]}
    if isinstance(value, Mapping):
        return {str(key): _described(item, f"{place}.{key}", places) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_described(item, f"{place}.{index}", places) for index, item in enumerate(value)]
    # A partial that Python binds as it does a method has no name of its own.
    if inspect.isroutine(value) and hasattr(value, "__qualname__"):
        return {"class": f"{value.__module__}:{value.__qualname__}"}
    cls = type(value)
    description: dict[str, Any] = {"class": f"{cls.__module__}:{cls.__qualname__}"}
    names = None if isinstance(value, Tensor) else _argument_names(cls)
    if names is not None and all(hasattr(value, name) for name in names):
        args = {name: _described(getattr(value, name), f"{place}.{name}", places) for name in names}
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
        defaults = _plain_ones(value.defaults)
        groups = []
        for group in value.param_groups:
            # What the group was given, before any schedule moved its learning rate.
            start = {"lr": group["initial_lr"]} if "initial_lr" in group else {}
            settings = _plain_ones({**group, **start})
            differing = [
                name for name in value.defaults if name in settings and settings[name] != defaults.get(name, ...)
            ]
            groups.append({name: settings[name] for name in differing})
        plain = {**defaults, "groups": groups}
    else:
        mro = type(value).__mro__
        names = {name for cls in mro for name in inspect.signature(cls.__init__).parameters}  # type: ignore[misc]
        plain = _plain_ones({name: setting for name, setting in vars(value).items() if name in names - STATE})
    return {"class": f"{type(value).__module__}:{type(value).__qualname__}", **plain}


def _plain_ones(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that YAML can hold, as it gives them back: lists for tuples, numbers for tensors of one."""
    plain = {}
    for name, setting in settings.items():
        with contextlib.suppress(TypeError):
            plain[name] = _as_plain(setting)
    return plain


def _as_plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _as_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_plain(item) for item in value]
    if isinstance(value, Tensor) and value.ndim == 0:
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(type(value))


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


def build_pair(
    described: Mapping[str, Any], where: str, trust: bool = False, given: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """Undo :func:`describe_pair`.

    Only networks and objectives are built: a class is looked at before it is called, and its module is imported only
    if it is one of those that define parts of the package, of Pyro or of torch, or if ``trust`` is set.

    Args:
        described: what :func:`describe_pair` returned.
        where: the run folder, for messages.
        trust: the description may name any module, which is imported.
        given: the model or the guide, where it need not be built.

    Raises:
        RunError: the class may not or cannot be imported, is no network, refuses its arguments, or was recorded by
            name only.
    """
    builder = _Builder(described, where, trust, dict(given))
    # An argument may be the text of a part, whose class is imported by who is given it.
    with names_from(where, trust=trust):
        return {name: builder.at(name) for name in ("model", "guide")}


class _MadeOfItselfError(RunError):
    """An object is described as made of itself, at ``place``."""

    def __init__(self, who: str, place: str) -> None:
        super().__init__(f"{who}: what lies at {shown(place)} is made of itself.")
        self.place = place


@dataclass(frozen=True)
class _Builder:
    """Builds the object at each place of a description once."""

    described: Mapping[str, Any]
    where: str
    trust: bool
    made: dict[str, Any]
    """Objects by place; None while the object is being built."""

    def at(self, place: str) -> Any:
        """Return the object at a place, as ``"guide"`` or ``"model.prior"``."""
        root, *names = place.split(".")
        try:
            if self.made.get(root) is not None:
                return functools.reduce(getattr, names, self.made[root])
            description = self.described[root]
            for name in names:
                inside = description["args"] if isinstance(description, Mapping) else description
                description = inside[int(name)] if isinstance(inside, list) else inside[name]
        except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
            raise RunError(f"{self.where}: nothing is described at {shown(place)}, which it refers to.") from error
        return self.build(description, place)

    def build(self, description: Any, place: str) -> Any:
        """Return the object of a description that stands at a place."""
        if isinstance(description, list):
            return tuple(self.build(item, f"{place}.{index}") for index, item in enumerate(description))
        if isinstance(description, Mapping) and description.keys() == {SAME} and isinstance(description[SAME], str):
            return self.at(description[SAME])
        if not isinstance(description, dict) or "class" not in description:
            return description
        who = f"{self.where}: {place.partition('.')[0]}"
        if place in self.made:
            if self.made[place] is None:
                raise _MadeOfItselfError(who, place)
            return self.made[place]
        path, args = description["class"], description.get("args")
        if not isinstance(path, str):
            raise RunError(f"{who}: `class` must be a text; got {shown(path)}.")
        if "args" not in description:
            raise not_described(description, who)
        if not isinstance(args, dict):
            raise RunError(f"{who}: `args` of {path} must be fields with names; got {shown(args)}.")
        self.made[place] = None
        try:
            target = trusted_class(path, who, self.trust)
            built: dict[str, Any] = {}
            later: dict[str, Any] = {}
            for key, value in args.items():
                try:
                    built[str(key)] = self.build(value, f"{place}.{key}")
                except _MadeOfItselfError as error:
                    # As of a model whose prior needs the guide, which needs the model: it is made without, and has
                    # its prior set.
                    if error.place != place or inspect.signature(target).parameters[str(key)].default is not None:
                        raise
                    later[str(key)] = value
            made = target(**built)
            self.made[place] = made
            for key, value in later.items():
                setattr(made, key, self.build(value, f"{place}.{key}"))
        except RunError:
            self.made.pop(place, None)
            raise
        except FAILURES as error:
            raise RunError(
                f"{who}: {path} cannot be built again: {' '.join(str(error).split()).removesuffix('.')}. Make it "
                f"importable, or build it yourself and pass it: load_run(path, model=..., guide=...)."
            ) from error
        return made


def not_described(description: Mapping[str, Any], who: str) -> RunError:
    """Return the error that says why an object which was recorded by name cannot be built, and what to do."""
    reason = description.get("why")
    told = (
        f"cannot be built from its description: {' '.join(str(reason).split())}"
        if reason
        else "was recorded by name only, since it or what it is made of does not keep its constructor arguments"
    )
    return RunError(
        f"{who}: {description['class']} {told}. Build it yourself and pass it: load_run(path, model=..., guide=...)."
    )


def is_buildable(description: Any, trust: bool = True) -> bool:
    """Whether :func:`build_pair` can be asked for an object: all in it was recorded with its arguments.

    Args:
        description: of the object.
        trust: its classes may be anybody's; otherwise they must be those of declared parts.
    """
    if isinstance(description, list):
        return all(is_buildable(value, trust) for value in description)
    if not isinstance(description, dict):
        return True
    if "class" in description and not ("args" in description and (trust or is_trusted(str(description["class"])))):
        return False
    return all(is_buildable(value, trust) for value in description.values())

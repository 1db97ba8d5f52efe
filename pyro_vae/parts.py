"""Parts by name: the package's own or a user's class, found, and made into a pair."""

import ast
import importlib
import importlib.util
import inspect
import math
import re
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

from pyro.infer import ELBO
from torch import Tensor, nn

from pyro_vae.errors import RunError
from pyro_vae.runtime.arguments import Reader, argument, named_as, options_named, reader, with_flags
from pyro_vae.runtime.installed import installed, package_of
from pyro_vae.runtime.memory import is_out_of_memory
from pyro_vae.runtime.trust import require_trusted
from pyro_vae.runtime.user_code import place_of, plainly, told
from pyro_vae.runtime.wording import did_you_mean

MOST_CHARACTERS = 10_000
"""Longest text of a part's name with its options."""


@dataclass(frozen=True)
class Kind:
    """A kind of part: where its classes are, and what they must be."""

    package: str
    """Exports our own classes; installed packages declare theirs as entry points of ``pyro_vae.KINDs``."""
    offered: frozenset[str]
    """Constructor arguments that come from the pair, and are therefore no options."""
    owes: str = "a torch.nn.Module, or has __call__"
    """What its classes are, in words."""

    def has(self, cls: type) -> bool:
        """Whether a class can be of this kind, before it is called."""
        return issubclass(cls, nn.Module) or any("__call__" in vars(base) for base in cls.__mro__)


class _Objective(Kind):
    def has(self, cls: type) -> bool:
        return issubclass(cls, ELBO) or all(hasattr(cls, name) for name in ("loss", "differentiable_loss"))


_SHAPES = frozenset({"x_shape", "x_dim", "latent_dim"})
_LAYERS = frozenset({"hidden_dims", "activation"})
_CONDITIONS = frozenset({"y_shape", "num_classes"})
"""What y is, where a datum is (x, y): read off the data, or an option in Python."""

KINDS = {
    "model": Kind("pyro_vae.models", _SHAPES | _LAYERS | _CONDITIONS | {"prior", "likelihood", "decoder"}),
    "guide": Kind("pyro_vae.guides", _SHAPES | _LAYERS | _CONDITIONS | {"data", "model", "encoder"}),
    "prior": Kind("pyro_vae.models.priors", _SHAPES | _CONDITIONS | {"data", "guide"}),
    "likelihood": Kind("pyro_vae.models.likelihoods", _SHAPES | _LAYERS | _CONDITIONS | {"decoder"}),
    # The pair's layers and activation are what a network has where its options say nothing else.
    "network": Kind("pyro_vae.nn", frozenset({"x_shape", "in_features", "out_features", "role", "blocks"})),
    "objective": _Objective("pyro_vae.objectives", frozenset(), "a subclass of pyro.infer.ELBO"),
}

PARTS = {
    "model": "model", "guide": "guide", "prior": "prior", "likelihood": "likelihood", "objective": "objective",
    "encoder": "network", "decoder": "network",
}  # fmt: skip
"""The parts of a run, and of which kind each is. Functions here take a part's name where they take a kind's."""

MLP = "mlp"
"""The network of a pair unless another one is chosen."""

NETWORK = "network"
"""What names the network of both sides at once: encoder and decoder, where these are not named themselves."""

SIDES = tuple(part for part, kind in PARTS.items() if kind == NETWORK)
"""The parts of a run that are networks."""

CHOICES = (*PARTS, NETWORK)
"""All that a user chooses by the name of a part."""


def kind_of(part: str) -> Kind:
    """Return the kind of a part of a run, or of that name."""
    return KINDS[PARTS.get(part, part)]


def own_parts(part: str) -> dict[str, type]:
    """Return the package's own classes of a kind by name, which is that of their file.

    >>> own_parts("guide")["low_rank"].__name__
    'LowRankGuide'
    """
    package = importlib.import_module(kind_of(part).package)
    classes = [value for value in (getattr(package, name) for name in package.__all__) if inspect.isclass(value)]
    return {cls.__module__.rpartition(".")[2]: cls for cls in classes}


def part_names(part: str) -> list[str]:
    """Return the names of all parts of a kind: the package's own, then those that installed packages declare.

    >>> part_names("network")[:2]
    ['mlp', 'conv']
    """
    return list(dict.fromkeys([*own_parts(part), *(point.name for point in _declared(part))]))


def _declared(part: str) -> tuple[EntryPoint, ...]:
    return installed(f"{PARTS.get(part, part)}s")


DEFAULT_GUIDE = "mean_field"


def default_guide(model: str) -> str:
    """Return the guide that a model has where none is named: its class's ``default_guide``, if it says one.

    Args:
        model: ``NAME`` or ``NAME(option=value, ...)``.

    Raises:
        ValueError: as for :func:`find_part`.

    >>> default_guide("vae"), default_guide("hierarchical_vae(inner_latent_dims=(20,))")
    ('mean_field', 'bottom_up')
    """
    guide: str = getattr(find_part("model", parse_part("model", model)[0]), "default_guide", DEFAULT_GUIDE)
    return guide


def find_part(part: str, name: str) -> type:
    """Return the class of a part.

    Args:
        part: ``"guide"`` or another one of a run, or a kind.
        name: one of :func:`part_names`, or a class of your own: ``path/to/file.py:ClassName`` or
            ``package.module:ClassName``.

    Raises:
        ValueError: there is no such part, file, module or class; an unknown name suggests the nearest. Or an installed
            package declares it, and its class cannot be imported, or another package declares one of that name.
        RunError: the name is a file's that the user has not said to trust, and the class none of the package's.

    >>> find_part("guide", "mean_field").__name__
    'MeanFieldGuide'
    """
    kind, who, known = PARTS.get(part, part), argument(part), own_parts(part)
    points = [point for point in _declared(part) if point.name == name]
    if ":" in name:
        require_trusted(name)
        cls, who, path = own_object(part, name), f"{who}:", name
    elif name in known:
        for point in points:
            _leave_out(kind, point)
        return known[name]
    elif points:
        package = f"the installed package {package_of(points[-1])}"
        if len(points) > 1:
            raise ValueError(
                f"{who}: {package} declares a {kind} {name!r}, and so does the package {package_of(points[0])}: rename "
                f"the entry point, or uninstall the package."
            )
        who, path = f"{who} {name}, of {package}:", points[0].value
        cls = installed_object(points[0], who)
    else:
        names = part_names(part)
        raise ValueError(
            f"{who}: unknown name {name!r}.{did_you_mean(name, names)} There are {', '.join(sorted(names))}; your own "
            f"is path/to/file.py:ClassName or package.module:ClassName."
        )
    if ":" in name and callable(cls) and not inspect.isclass(cls):
        raise ValueError(
            f"{who} {path} is a function, and a {kind} is made from a class, which holds its parameters: write a "
            f"torch.nn.Module whose forward does what the function does, or pass the function to pyro_vae.fit in "
            f"Python."
        )
    if not inspect.isclass(cls) or not kind_of(part).has(cls):
        raise ValueError(f"{who} {path} is no {kind}: its class is {kind_of(part).owes}.")
    return cls


@cache
def _leave_out(kind: str, point: EntryPoint) -> None:
    """Warn, once, of a part that an installed package declares under the name of one of the package's own."""
    warnings.warn(
        f"{kind} {point.name}, of the installed package {package_of(point)}: the name is taken by a {kind} of pyro-vae "
        f"itself, which is used. Rename the entry point, or uninstall the package.",
        stacklevel=2,
    )


def installed_object(point: EntryPoint, who: str) -> Any:
    """Import what an installed package declares.

    Raises:
        ValueError: it cannot be imported. The message begins with ``who``.
    """
    try:
        return point.load()
    except Exception as error:
        raise ValueError(f"{who} {point.value} cannot be imported: {told(error)}.") from error


def parse_part(kind: str, text: str) -> tuple[str, dict[str, Any]]:
    """Split ``NAME`` or ``NAME(option=value, ...)`` into the name and its options.

    Args:
        kind: for the message.
        text: options are Python literals; ``inf`` and ``nan`` are numbers, too, and ``true``, ``false`` and ``null``
            are read as YAML reads them.

    Raises:
        ValueError: the text is neither.

    >>> parse_part("guide", "low_rank(rank=4)")
    ('low_rank', {'rank': 4})
    >>> parse_part("likelihood", "bernoulli(soft_targets=true)")
    ('bernoulli', {'soft_targets': True})
    """
    name, bracket, rest = text.strip().partition("(")
    try:
        if len(text) > MOST_CHARACTERS:
            raise ValueError(text)
        call = _Words().visit(ast.parse(f"_({rest}" if bracket else "_()", mode="eval")).body
        if not (name and isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
            raise ValueError(text)
        if call.args or any(keyword.arg is None for keyword in call.keywords):
            raise ValueError(text)
        return name.strip(), {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        hint = "A text needs quotes, as in mlp(activation='relu'); truth values are True and False."
        if text.count("(") > text.count(")"):
            hint = "Its bracket is not closed. In a YAML list, a part with a comma needs quotes around it."
        raise ValueError(
            f"{argument(kind)}: cannot read {text!r:.200}: write NAME or NAME(option=value, ...), as low_rank(rank=4). "
            f"{hint}"
        ) from error


WORDS: dict[str, float | None] = {"inf": math.inf, "nan": math.nan}
WORDS |= {
    spelling: value
    for word, value in {"true": True, "false": False, "null": None}.items()
    for spelling in (word, word.title(), word.upper())
}
"""Values of words that are no Python literals: two floats, and the constants of YAML in its spellings."""


class _Words(ast.NodeTransformer):
    """Reads the words that stand for a value without being a Python literal."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """Return the value of a word."""
        return ast.Constant(WORDS[node.id]) if node.id in WORDS else node


SHARED = {"latent_dim", "hidden_dims", "encoder_dims", "activation"}
"""Settings of a pair that its parts' messages name."""


def part_options(kind: str, name: str) -> list[str]:
    """Return the options of a part: its constructor's arguments but those that :func:`make_pair` gives it.

    >>> part_options("guide", "low_rank")
    ['rank']
    """
    parameters = inspect.signature(find_part(kind, name)).parameters
    return [parameter for parameter in parameters if parameter not in kind_of(kind).offered]


def make_part(kind: str, text: str, **offered: Any) -> Any:
    """Make a part from its name and options, and from those of ``offered`` that its constructor names.

    An option has the last word on what is offered, unless only the pair can know it.

    Raises:
        ValueError: there is no such part, it has no such option, or it needs what is not offered.
    """
    name, options = parse_part(kind, text)
    check_options(kind, text)
    cls, who = find_part(kind, name), f"{argument(kind)} {name}"
    parameters = inspect.signature(cls).parameters
    for option in options:
        if offered.get(option) is not None and option in kind_of(kind).offered:
            raise ValueError(f"{who}: {option} is the pair's, and no option.")
    arguments = {name: offered[name] for name in parameters if offered.get(name) is not None and name not in options}
    if callable(arguments.get("data")):
        arguments["data"] = arguments["data"]()
    for parameter in parameters.values():
        if parameter.default is parameter.empty and parameter.name not in arguments | options:
            # The options of a script's parts stand in their text, and are no flags.
            needed = f"--{kind}.{parameter.name}" if reader() == "flags" else f"`{parameter.name}`"
            raise ValueError(f"{who}: needs {needed}, which was not given.")
    with _as_typed(kind, text, arguments):
        return cls(**arguments, **options)


@contextmanager
def _as_typed(kind: str, text: str, offered: Collection[str] = ()) -> Iterator[None]:
    """Say what a part's class refuses, inside the block, in terms of the text that names it.

    Args:
        kind: of the part.
        text: its name with its options.
        offered: the arguments that it is given beside them.

    Raises:
        ValueError: of an error of the part, with its flags in the place of Python's arguments.
    """
    name, options = parse_part(kind, text)
    who = f"{argument(kind)} {name}"
    have_flags = reader() == "flags"
    try:
        with options_named():
            yield
    except Exception as error:
        if is_out_of_memory(error):
            raise
        # What a part of the package refuses, it says itself.
        place = place_of(error) if ":" in name else ""
        if place or isinstance(error, TypeError | OverflowError):
            written = ", ".join(f"--{kind}.{option} {value!r}" for option, value in options.items())
            settings = (written if have_flags else options) or "its settings"
            reason = told(error) if place else plainly(error)
            raise ValueError(f"{who} cannot be made with {settings}: {reason}.") from error
        if type(error) is not ValueError or not have_flags:
            raise
        message = str(error)
        for option in options:
            # A network that an option is for calls it by its last words.
            for shared in SHARED:
                message = re.sub(rf"\b{shared}\b", option, message) if option.endswith(f"_{shared}") else message
        parameters = inspect.signature(find_part(kind, name)).parameters
        plain = {p.name for p in parameters.values() if isinstance(p.default, int | float | str | tuple)}
        own_flags = (plain | options.keys()) - kind_of(kind).offered - set(offered)
        raise ValueError(with_flags(with_flags(message, own_flags, f"{kind}."), SHARED)) from error


def check_options(kind: str, text: str) -> None:
    """Refuse options that a part does not have, and such options of the parts that it names itself.

    Raises:
        ValueError: says which, and suggests the nearest.
    """
    name, options = parse_part(kind, text)
    parameters = inspect.signature(find_part(kind, name)).parameters
    for option in options:
        if option not in parameters:
            known = part_options(kind, name)
            has = f"It has {', '.join(known)}." if known else "It has none."
            raise ValueError(f"{argument(kind)} {name}: has no option {option!r}.{did_you_mean(option, known)} {has}")
    for place, (inner_kind, inner) in named_parts(kind, text).items():
        option = place.partition(".")[0]
        where = f"--{kind}.{option}" if reader() == "flags" else option
        try:
            with options_named():
                check_options(inner_kind, inner)
        except RunError:
            raise
        except ValueError as error:
            raise ValueError(f"{argument(kind)} {name}: {where}: {error}") from error


def named_parts(kind: str, text: str) -> dict[str, tuple[str, str]]:
    """Return kind and text of each part that a part's options name, by its place among them.

    A class says which of its options are texts of parts, or sequences of such texts, by an attribute ``names_parts``,
    a mapping from the option to the kind.

    Raises:
        ValueError: as for :func:`find_part`.

    >>> named_parts("guide", "bottom_up(layers=('mean_field', 'iaf(num_flows=2)'))")
    {'layers.0': ('guide', 'mean_field'), 'layers.1': ('guide', 'iaf(num_flows=2)')}
    """
    name, options = parse_part(kind, text)
    found: dict[str, tuple[str, str]] = {}
    for option, inner_kind in getattr(find_part(kind, name), "names_parts", {}).items():
        texts = options.get(option, ())
        for index, inner in enumerate(texts if isinstance(texts, list | tuple) else [texts]):
            if isinstance(inner, str):
                found[f"{option}.{index}"] = inner_kind, inner
    return found


def make_objective(text: str) -> Any:
    """Make an objective from its name and options.

    >>> make_objective("iwae(num_particles=3)").num_particles
    3
    """
    return make_part("objective", text)


def make_pair(
    x_shape: Sequence[int],
    latent_dim: int,
    hidden_dims: Sequence[int],
    *,
    guide: str = "",
    prior: str = "standard_normal",
    likelihood: str = "bernoulli",
    model: str = "vae",
    network: str = MLP,
    encoder: str | None = None,
    decoder: str | None = None,
    encoder_dims: Sequence[int] | None = None,
    activation: str | None = None,
    data: Callable[[], Tensor] | None = None,
    y_shape: Sequence[int] | None = None,
    num_classes: int | None = None,
) -> tuple[Any, Any]:
    """Make a model and its guide from the names of their parts.

    Args:
        x_shape: shape of one datum.
        latent_dim: dimension of z.
        hidden_dims: of the decoder, nearest to z first; the encoder has them in reverse.
        guide: ``NAME`` or ``NAME(option=value, ...)``, a name for :func:`find_part`; :func:`default_guide` of the model
            unless given.
        prior: likewise; only the default where the model takes no prior.
        likelihood: likewise.
        model: likewise. Its constructor is given those of ``x_shape``, ``x_dim`` (for flat data), ``latent_dim``,
            ``hidden_dims``, ``activation``, ``prior``, ``likelihood`` and ``decoder`` that it names. Options that it is
            given here and that the guide has too are the guide's as well, unless the guide's text has them. Where the
            likelihood is called with something else than z, the class has a static method
            ``likelihood_dim(latent_dim, **options)`` that returns its dimension; it is given ``y_shape`` and
            ``num_classes`` if it names them. Where the prior needs the guide and the guide the model, the model is made
            without it, and has it set as its attribute ``prior`` later, if the guide's class says by
            ``prior_comes_later = True`` that its ``posterior`` does not use it.
        network: of both sides, likewise: the encoder and the decoder unless these are given.
        encoder: the guide's network, likewise; only the default where the guide takes no encoder.
        decoder: the network of the likelihood, or of a model that takes no likelihood; only the default where neither
            takes a decoder.
        encoder_dims: hidden layers of the encoder, nearest to x first, where they are not those of the decoder.
        activation: of both networks; each part's own unless given.
        data: returns model inputs ``(N, *x_shape)``; called once for each part that starts from data.
        y_shape: where a datum is (x, y), the shape of one y. It is given to each part whose constructor names it.
        num_classes: where y is a class label, an integer from 0 on, the number of classes; likewise.

    Returns:
        The model and the guide.

    Raises:
        ValueError: as for :func:`make_part`; or the prior needs the guide and the guide the model; or a prior or
            likelihood was chosen for a model that takes none, or a network for a part that takes none.

    >>> model, guide = make_pair((1, 28, 28), 50, (200, 200), guide="low_rank(rank=4)")
    >>> guide.rank
    4
    """
    guide = guide or default_guide(model)
    encoder, decoder = encoder or network, decoder or network
    conditions: dict[str, Any] = {"y_shape": None if y_shape is None else tuple(y_shape), "num_classes": num_classes}
    shapes = _shapes(x_shape, latent_dim) | conditions
    layers = {"hidden_dims": tuple(hidden_dims), "activation": activation}
    taken = _arguments("model", model)
    for kind, text, default in (("prior", prior, "standard_normal"), ("likelihood", likelihood, "bernoulli")):
        if kind not in taken and text != default:
            raise ValueError(f"model {model} takes no {kind}: leave out {argument(kind)} {text}.")
    owner = ("likelihood", likelihood) if "likelihood" in taken else ("model", model)
    made_decoder = _network_for("decoder", decoder, *owner, activation)

    def guide_of(made_model: Any) -> Any:
        return make_guide(
            x_shape, latent_dim, encoder_dims or tuple(hidden_dims)[::-1], guide=guide, model=made_model,
            encoder=encoder, activation=activation, data=data, model_text=model, **conditions,
        )  # fmt: skip

    def prior_of(made_guide: Any) -> Any:
        return make_part("prior", prior, **shapes, data=data, guide=made_guide)

    def model_of(made_guide: Any, with_prior: bool = True) -> Any:
        made: dict[str, Any] = {}
        if "prior" in taken and with_prior:
            made["prior"] = prior_of(made_guide)
        if "likelihood" in taken:
            dim = _likelihood_dim(model, latent_dim, conditions)
            made["likelihood"] = make_part(
                "likelihood", likelihood, **(shapes | {"latent_dim": dim}), **layers, decoder=made_decoder
            )
        else:
            made["decoder"] = made_decoder
        return make_part("model", model, **shapes, **layers, **made)

    if "model" not in _arguments("guide", guide):
        made_guide = guide_of(None)
        return model_of(made_guide), made_guide
    prior_needs_guide = "prior" in taken and "guide" in _arguments("prior", prior)
    if prior_needs_guide and not getattr(find_part("guide", parse_part("guide", guide)[0]), "prior_comes_later", False):
        raise ValueError(f"prior {prior} needs the guide, and guide {guide} needs the model: choose another of one.")
    made_model = model_of(None, with_prior=not prior_needs_guide)
    made_guide = guide_of(made_model)
    if prior_needs_guide:
        made_model.prior = prior_of(made_guide)
    return made_model, made_guide


def make_guide(
    x_shape: Sequence[int],
    latent_dim: int,
    encoder_dims: Sequence[int],
    *,
    guide: str,
    model: Any,
    encoder: str = MLP,
    activation: str | None = None,
    data: Callable[[], Tensor] | None = None,
    model_text: str = "vae",
    y_shape: Sequence[int] | None = None,
    num_classes: int | None = None,
) -> Any:
    """Make a guide for a model that is there.

    Args: as for :func:`make_pair`; ``model`` is the object, and ``model_text`` its name with its options.

    Raises:
        ValueError: as for :func:`make_part`.
    """
    network = _network_for("encoder", encoder, "guide", guide, activation)
    # What only the pair can know is no option of the model.
    shared = {
        name: value
        for name, value in parse_part("model", model_text)[1].items()
        if name not in kind_of("guide").offered - _CONDITIONS
    }
    # The data say what y is; the model's text does where there are none.
    conditions = {"y_shape": y_shape, "num_classes": num_classes}
    of_model = shared.keys() - parse_part("guide", guide)[1].keys()
    shared |= {name: value for name, value in conditions.items() if value is not None}
    try:
        return make_part(
            "guide", guide, **shared, **_shapes(x_shape, latent_dim), hidden_dims=tuple(encoder_dims),
            activation=activation, model=model, encoder=network, data=data,
        )  # fmt: skip
    except ValueError as error:
        if type(error) is not ValueError or reader() != "flags":
            raise
        raise ValueError(with_flags(str(error), of_model, "model.")) from error


def _likelihood_dim(model: str, latent_dim: int, conditions: Mapping[str, Any]) -> int:
    """Return the dimension of what a model calls its likelihood with."""
    name, options = parse_part("model", model)
    cls = find_part("model", name)
    if not hasattr(cls, "likelihood_dim"):
        return latent_dim
    check_options("model", model)
    named = inspect.signature(cls.likelihood_dim).parameters
    known = {name: value for name, value in conditions.items() if value is not None and name in named}
    with _as_typed("model", model):
        dim: int = cls.likelihood_dim(latent_dim, **(known | options))
    return dim


def _shapes(x_shape: Sequence[int], latent_dim: int) -> dict[str, Any]:
    flat = {"x_dim": x_shape[0]} if len(x_shape) == 1 else {}
    return {"x_shape": tuple(x_shape), "latent_dim": latent_dim, **flat}


def _network_for(part: str, text: str, kind: str, owner: str, activation: str | None) -> Callable[..., Any] | None:
    """Return a function that makes a network of the sizes that its owner asks for; None for the owner's default.

    Args:
        part: ``"encoder"`` or ``"decoder"``.
        text: the network's name with its options.
        kind: of the part that owns the network.
        owner: its name with its options.
        activation: what the user chose for the pair's networks, if anything.

    Raises:
        ValueError: the owner takes no such network, or there is none of that name and options.
    """
    if text == MLP:
        return None
    if part not in _arguments(kind, owner):
        raise ValueError(
            f"{kind} {owner} takes no {part}: leave out {argument(part)} {text}; beside {argument(NETWORK)}, which is "
            f"for both sides, give {argument(part, MLP)}."
        )
    check_options(part, text)
    name = parse_part(part, text)[0]
    own = inspect.signature(find_part(part, name)).parameters.get("activation")
    # If no activation is chosen, the network keeps its own default, and does not get that of its owner.
    chosen = {}
    if activation is None and name != MLP and own is not None and own.default is not own.empty:
        chosen["activation"] = own.default
    return partial(_make_for, reader(), part, text, chosen)


def _make_for(
    whom: Reader, part: str, text: str, chosen: Mapping[str, str], *, role: str, blocks: Any = None, **sizes: Any
) -> Any:
    """Make a network with messages for whoever chose it, whatever its owner's messages are written for."""
    with named_as(whom):
        return make_part(part, text, role=role, blocks=blocks, **{**sizes, **chosen})


def _arguments(kind: str, text: str) -> set[str]:
    return set(inspect.signature(find_part(kind, parse_part(kind, text)[0])).parameters)


def own_object(kind: str, path: str, wanted: Callable[[Any], bool] = inspect.isclass) -> Any:
    """Import what a file or module of the user's own defines.

    Args:
        kind: of the part, for the message.
        path: ``path/to/file.py:Name`` or ``package.module:Name``.
        wanted: which of the module's names to list where it lacks this one: those of classes or of functions.

    Raises:
        ValueError: the file or module is missing, fails on import, or does not define the name.
    """
    where, _, name = path.rpartition(":")
    module = _from_file(kind, Path(where)) if where.endswith(".py") else _from_module(kind, where)
    if name and hasattr(module, name):
        return getattr(module, name)
    names = sorted(n for n, value in vars(module).items() if wanted(value) and value.__module__ == module.__name__)
    what = "class" if wanted is inspect.isclass else "function"
    lacks = f"{where} does not define the {what} {name!r}" if name else f"{path} names no {what} after the colon"
    there = ", ".join(names) or "none"
    raise ValueError(f"{argument(kind)}: {lacks}; it defines {there}.{did_you_mean(name, names)}")


def _from_module(kind: str, path: str) -> ModuleType:
    try:
        return importlib.import_module(path)
    except ImportError as error:
        raise ValueError(f"{argument(kind)}: cannot import {path}: {error}.") from error
    except Exception as error:
        raise ValueError(f"{argument(kind)}: {path} fails on import: {told(error)}.") from error


def _looked_in(path: Path) -> str:
    """Return where a relative path was looked for, in words; nothing of an absolute path."""
    return "" if path.is_absolute() else f" in the current folder, {Path.cwd()}"


def _from_file(kind: str, path: Path) -> ModuleType:
    """Import a file under its own name, by which a run folder finds its classes again."""
    if not path.is_file():
        raise ValueError(f"{argument(kind)}: there is no file {path}{_looked_in(path)}.")
    resolved = path.resolve()
    loaded = sys.modules.get(path.stem)
    if loaded is not None:
        if getattr(loaded, "__file__", None) == str(resolved):
            return loaded
        raise ValueError(f"{argument(kind)}: {path} has the name of a module that is already loaded: rename the file.")
    spec = importlib.util.spec_from_file_location(path.stem, resolved)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[path.stem]
        raise ValueError(f"{argument(kind)}: {path} fails on import: {told(error)}.") from error
    return module

"""Parts by name: the package's own or a user's class, found, and made into a pair."""

import ast
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

from pyro.infer import ELBO
from torch import Tensor, nn

from pyro_vae.runtime.arguments import are_flags, argument, named_as, with_flags
from pyro_vae.runtime.memory import is_out_of_memory
from pyro_vae.runtime.trust import require_trusted
from pyro_vae.runtime.user_code import place_of, plainly, told
from pyro_vae.runtime.wording import did_you_mean

MOST_CHARACTERS = 10_000
"""Of a part's name with its options."""

PACKAGES = {
    "model": "pyro_vae.models",
    "guide": "pyro_vae.guides",
    "prior": "pyro_vae.models.priors",
    "likelihood": "pyro_vae.models.likelihoods",
    "objective": "pyro_vae.objectives",
}


def part_names(kind: str) -> dict[str, type]:
    """Return the package's own parts by name, which is that of their file.

    Args:
        kind: ``"model"``, ``"guide"``, ``"prior"``, ``"likelihood"`` or ``"objective"``.

    >>> part_names("guide")["low_rank"].__name__
    'LowRankGuide'
    """
    package = importlib.import_module(PACKAGES[kind])
    classes = [value for value in (getattr(package, name) for name in package.__all__) if inspect.isclass(value)]
    return {cls.__module__.rpartition(".")[2]: cls for cls in classes}


def find_part(kind: str, name: str) -> type:
    """Return the class of a part.

    Args:
        kind: ``"model"``, ``"guide"``, ``"prior"``, ``"likelihood"`` or ``"objective"``.
        name: one of :func:`part_names`, or a class of your own: ``path/to/file.py:ClassName`` or
            ``package.module:ClassName``.

    Raises:
        ValueError: there is no such part, file, module or class; an unknown name suggests the nearest.
        RunError: the name is a file's that the user has not said to trust, and the class none of the package's.

    >>> find_part("guide", "mean_field").__name__
    'MeanFieldGuide'
    """
    if ":" in name:
        require_trusted(name)
        return _own_class(kind, name)
    known = part_names(kind)
    if name not in known:
        raise ValueError(
            f"{argument(kind)}: unknown name {name!r}.{did_you_mean(name, known)} There are "
            f"{', '.join(sorted(known))}; your own is path/to/file.py:ClassName or package.module:ClassName."
        )
    return known[name]


def parse_part(kind: str, text: str) -> tuple[str, dict[str, Any]]:
    """Split ``NAME`` or ``NAME(option=value, ...)`` into the name and its options.

    Args:
        kind: for the message.
        text: options are Python literals; ``inf`` and ``nan`` are numbers, too.

    Raises:
        ValueError: the text is neither.

    >>> parse_part("guide", "low_rank(rank=4)")
    ('low_rank', {'rank': 4})
    """
    name, bracket, rest = text.strip().partition("(")
    try:
        if len(text) > MOST_CHARACTERS:
            raise ValueError(text)
        call = _Infinities().visit(ast.parse(f"_({rest}" if bracket else "_()", mode="eval")).body
        if not (name and isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
            raise ValueError(text)
        if call.args or any(keyword.arg is None for keyword in call.keywords):
            raise ValueError(text)
        return name.strip(), {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(
            f"{argument(kind)}: cannot read {text!r:.200}: write NAME or NAME(option=value, ...), as low_rank(rank=4)."
        ) from error


SHARED = {"latent_dim", "hidden_dims", "encoder_dims", "activation"}
"""Settings of a pair that its parts' messages name."""

NETWORK = {"x_shape", "x_dim", "latent_dim", "hidden_dims", "activation"}

OFFERED: dict[str, set[str]] = {
    "model": NETWORK | {"prior", "likelihood"},
    "guide": NETWORK | {"data", "model"},
    "prior": {"x_shape", "x_dim", "latent_dim", "data", "guide"},
    "likelihood": NETWORK,
    "objective": set(),
}
"""What :func:`make_pair` gives a part of each kind, and what is therefore no option of it."""


def part_options(kind: str, name: str) -> list[str]:
    """Return the options of a part: its constructor's arguments but those that :func:`make_pair` gives it.

    >>> part_options("guide", "low_rank")
    ['rank', 'encoder']
    """
    parameters = inspect.signature(find_part(kind, name)).parameters
    return [parameter for parameter in parameters if parameter not in OFFERED[kind]]


class _Infinities(ast.NodeTransformer):
    """Reads the names of the floats that have no literal."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """Return the number of a name."""
        return ast.Constant(float(node.id)) if node.id in ("inf", "nan") else node


def make_part(kind: str, text: str, **offered: Any) -> Any:
    """Make a part from its name and options, and from those of ``offered`` that its constructor names.

    Raises:
        ValueError: there is no such part, it has no such option, or it needs what is not offered.
    """
    name, options = parse_part(kind, text)
    cls = find_part(kind, name)
    parameters = inspect.signature(cls).parameters
    for option in options:
        if offered.get(option) is not None:
            raise ValueError(f"{argument(kind)} {name}: {option} is the pair's, and no option.")
    check_options(kind, text)
    given = {parameter: offered[parameter] for parameter in parameters if offered.get(parameter) is not None}
    for parameter in parameters.values():
        if parameter.default is parameter.empty and parameter.name not in given | options:
            needed = f"--{kind}.{parameter.name}" if are_flags() else f"`{parameter.name}`"
            raise ValueError(f"{argument(kind)} {name}: needs {needed}, which was not given.")
    try:
        with named_as("settings") if are_flags() else nullcontext():
            return cls(**given, **options)
    except Exception as error:
        # What a part of the package refuses, it says itself.
        own = place_of(error) if ":" in name else ""
        if is_out_of_memory(error):
            raise
        if own or isinstance(error, TypeError | OverflowError):
            written = [f"--{kind}.{option} {value!r}" for option, value in options.items()]
            with_what = (", ".join(written) if are_flags() else options) or "its settings"
            what = f"{argument(kind)} {name} cannot be made with {with_what}"
            raise ValueError(f"{what}: {told(error) if own else plainly(error)}.") from error
        if type(error) is not ValueError:
            raise
        plain = {p.name for p in parameters.values() if isinstance(p.default, int | float | str | tuple)}
        own_flags = (plain | options.keys()) - OFFERED[kind]
        said = str(error)
        for option in options if are_flags() else ():
            # A network that an option is for calls it by its last words.
            for shared in SHARED:
                said = re.sub(rf"\b{shared}\b", option, said) if option.endswith(f"_{shared}") else said
        said = with_flags(with_flags(said, own_flags, f"{kind}."), SHARED)
        if said == str(error):
            raise
        raise ValueError(said) from error


def check_options(kind: str, text: str) -> None:
    """Refuse options that a part does not have.

    Raises:
        ValueError: says which, and suggests the nearest.
    """
    name, options = parse_part(kind, text)
    parameters = inspect.signature(find_part(kind, name)).parameters
    for option in options:
        if option not in parameters:
            own = part_options(kind, name)
            has = f"It has {', '.join(own)}." if own else "It has none."
            raise ValueError(f"{argument(kind)} {name}: has no option {option!r}.{did_you_mean(option, own)} {has}")


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
    guide: str = "mean_field",
    prior: str = "standard_normal",
    likelihood: str = "bernoulli",
    model: str = "vae",
    encoder_dims: Sequence[int] | None = None,
    activation: str | None = None,
    data: Callable[[], Tensor] | None = None,
) -> tuple[Any, Any]:
    """Make a model and its guide from the names of their parts.

    Args:
        x_shape: shape of one datum.
        latent_dim: dimension of z.
        hidden_dims: of the decoder, nearest to z first; the encoder has them in reverse.
        guide: ``NAME`` or ``NAME(option=value, ...)``, a name for :func:`find_part`.
        prior: likewise; only the default where the model takes no prior.
        likelihood: likewise.
        model: likewise. Its constructor is given those of ``x_shape``, ``x_dim`` (for flat data), ``latent_dim``,
            ``hidden_dims``, ``activation``, ``prior`` and ``likelihood`` that it names.
        encoder_dims: hidden layers of the encoder, nearest to x first, where they are not those of the decoder.
        activation: of both networks; each part's own unless given.
        data: returns model inputs ``(N, *x_shape)``; called once for each part that starts from data.

    Returns:
        The model and the guide.

    Raises:
        ValueError: as for :func:`make_part`; or the prior needs the guide and the guide the model; or a prior or
            likelihood was chosen for a model that takes none.

    >>> model, guide = make_pair((1, 28, 28), 50, (200, 200), guide="low_rank(rank=4)")
    >>> guide.rank
    4
    """
    common: dict[str, Any] = {"x_shape": tuple(x_shape), "latent_dim": latent_dim}
    common |= {"x_dim": x_shape[0]} if len(x_shape) == 1 else {}
    networks = common | {"activation": activation}
    decoder: dict[str, Any] = networks | {"hidden_dims": tuple(hidden_dims)}
    encoder: dict[str, Any] = networks | {"hidden_dims": tuple(encoder_dims or tuple(hidden_dims)[::-1])}
    taken = _arguments("model", model)
    for kind, text, default in (("prior", prior, "standard_normal"), ("likelihood", likelihood, "bernoulli")):
        if kind not in taken and text != default:
            raise ValueError(f"model {model} takes no {kind}: leave out {argument(kind)} {text}.")

    def data_for(kind: str, text: str) -> Tensor | None:
        return data() if data is not None and "data" in _arguments(kind, text) else None

    def model_with(made_prior: Any) -> Any:
        parts = {"likelihood": make_part("likelihood", likelihood, **decoder)} if "likelihood" in taken else {}
        return make_part("model", model, **decoder, prior=made_prior, **parts)

    def prior_with(made_guide: Any) -> Any:
        if "prior" not in taken:
            return None
        return make_part("prior", prior, **common, data=data_for("prior", prior), guide=made_guide)

    if "model" in _arguments("guide", guide):
        if "guide" in _arguments("prior", prior):
            raise ValueError(
                f"prior {prior} needs the guide, and guide {guide} needs the model: choose another of one."
            )
        made_model = model_with(prior_with(None))
        return made_model, make_part("guide", guide, **encoder, data=data_for("guide", guide), model=made_model)
    made_guide = make_part("guide", guide, **encoder, data=data_for("guide", guide))
    return model_with(prior_with(made_guide)), made_guide


def make_guide(
    x_shape: Sequence[int],
    latent_dim: int,
    encoder_dims: Sequence[int],
    *,
    guide: str,
    model: Any,
    activation: str | None = None,
    data: Callable[[], Tensor] | None = None,
) -> Any:
    """Make a guide for a model that is there.

    Args: as for :func:`make_pair`; ``model`` is the object.

    Raises:
        ValueError: as for :func:`make_part`.
    """
    own = _arguments("guide", guide)
    return make_part(
        "guide", guide, x_shape=tuple(x_shape), latent_dim=latent_dim, hidden_dims=tuple(encoder_dims),
        activation=activation, model=model, data=data() if data is not None and "data" in own else None,
    )  # fmt: skip


def _arguments(kind: str, text: str) -> set[str]:
    return set(inspect.signature(find_part(kind, parse_part(kind, text)[0])).parameters)


def _own_class(kind: str, name: str) -> type:
    where, _, class_name = name.rpartition(":")
    module = _from_file(kind, Path(where)) if where.endswith(".py") else _from_module(kind, where)
    found = getattr(module, class_name, None) if class_name else None
    if inspect.isclass(found):
        if not _is_of(kind, found):
            owes = "a subclass of pyro.infer.ELBO" if kind == "objective" else "a torch.nn.Module, or has __call__"
            raise ValueError(f"{argument(kind)}: {name} is no {kind}: its class is {owes}.")
        return found
    classes = [n for n, value in vars(module).items() if inspect.isclass(value) and value.__module__ == module.__name__]
    there = f"it defines {', '.join(sorted(classes)) or 'none'}."
    if not class_name:
        raise ValueError(f"{argument(kind)}: {name} names no class after the colon: write {where}:ClassName; {there}")
    if callable(found):
        raise ValueError(
            f"{argument(kind)}: {name} is a function, and a {kind} is made from a class, which holds its parameters: "
            f"write a torch.nn.Module whose forward does what the function does, or pass the function to pyro_vae.fit "
            f"in Python; {there}"
        )
    raise ValueError(
        f"{argument(kind)}: {where} does not define the class {class_name!r}; {there}"
        f"{did_you_mean(class_name, classes)}"
    )


def _is_of(kind: str, cls: type) -> bool:
    """Whether a class can be a part of a kind, before it is called."""
    if kind == "objective":
        return issubclass(cls, ELBO) or all(hasattr(cls, name) for name in ("loss", "differentiable_loss"))
    return issubclass(cls, nn.Module) or any("__call__" in vars(base) for base in cls.__mro__)


def _from_module(kind: str, path: str) -> ModuleType:
    try:
        return importlib.import_module(path)
    except ImportError as error:
        raise ValueError(f"{argument(kind)}: cannot import {path}: {error}.") from error
    except Exception as error:
        raise ValueError(f"{argument(kind)}: {path} fails on import: {told(error)}.") from error


def _from_file(kind: str, path: Path) -> ModuleType:
    """Import a file under its own name, by which a run folder finds its classes again."""
    if not path.is_file():
        raise ValueError(f"{argument(kind)}: there is no file {path}.")
    resolved = path.resolve()
    loaded = sys.modules.get(path.stem)
    if loaded is not None:
        if getattr(loaded, "__file__", None) == str(resolved):
            return loaded
        raise ValueError(f"{argument(kind)}: {path} has the name of a module that is already loaded: rename the file.")
    spec = importlib.util.spec_from_file_location(path.stem, resolved)
    if spec is None or spec.loader is None:
        raise ValueError(f"{argument(kind)}: {path} is no Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[path.stem]
        raise ValueError(f"{argument(kind)}: {path} fails on import: {told(error)}.") from error
    return module

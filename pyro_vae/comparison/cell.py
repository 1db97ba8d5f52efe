"""A cell of a comparison: one model and one guide, how they are fitted, and how they are measured."""

import contextlib
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from pyro_vae.comparison.data_text import canonical_data
from pyro_vae.comparison.evaluations import NUM_TEST, find_evaluation
from pyro_vae.comparison.evaluations import check_options as check_evaluation_options
from pyro_vae.comparison.own_code import code_of, packages_of
from pyro_vae.data import BINARIZATIONS
from pyro_vae.errors import RunError
from pyro_vae.fit.options import BATCH_SIZE, EPOCHS, LEARNING_RATE
from pyro_vae.graphs.levels import LEVELS
from pyro_vae.parts import KINDS, MLP, NETWORK, PARTS, SIDES, check_options, default_guide, parse_part
from pyro_vae.runtime.arguments import argument
from pyro_vae.runtime.reading import shown
from pyro_vae.runtime.wording import did_you_mean

FORMAT = 3
"""Format of a cell's settings and results. It is part of a cell's hash: an old result is never taken for a new one."""

ADDED_LATER = ("quadrants",)
"""Settings that are no part of the hash while they are None, so that cells from before these settings keep theirs."""

SCHEDULES = ("cosine", "iwae", "constant")

MODEL_SETTINGS = (
    "model", "prior", "likelihood", "decoder", "latent_dim", "hidden_dims", "activation", "init_bias",
    "data", "labels", "quadrants", "binarization", "valid_size", "data_seed",
)  # fmt: skip
"""Settings that a cell shares with the cell whose model it takes over."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """All settings of one run, as plain values for YAML; the hash of a cell names its folder.

    Parts are written ``NAME`` or ``NAME(option=value, ...)``; a class of your own is ``path/to/file.py:ClassName`` or
    ``package.module:ClassName``.

    Args:
        model: p(x, z).
        guide: q(z | x); by default the model's own, as bottom_up of hierarchical_vae, or mean_field.
        prior: p(z), if the model takes one.
        likelihood: p(x | z), if the model takes one.
        objective: the bound to maximise.
        encoder: network of the guide, if it takes one.
        decoder: network of the likelihood, or of a model without a likelihood, if it takes one.
        latent_dim: dimension of z.
        hidden_dims: hidden layers of the decoder, nearest to z first; the encoder has them in reverse. A network's own
            options override layers and activation.
        encoder_dims: hidden layers of the encoder, nearest to x first, if they differ from those of the decoder.
        activation: of both networks; by default that of each part.
        init_bias: start the output bias so that the decoder outputs the mean image.
        data: name of a data set, or a path; with options as ``NAME(option=value, ...)``.
        labels: whether model and guide get the labels of the data as well, as the second argument; for a table, the
            name of their column.
        quadrants: how many quadrants of each image are given, 1, 2 or 3: model and guide get the missing pixels, and
            the image without them as the second argument.
        binarization: stochastic, static, threshold or none; by default that of the data set.
        valid_size: images held out of training; by default the number of the data set.
        data_seed: of draws made when data are loaded. Cells can be compared only with the same.
        seed: of initial parameters, data order and noise.
        epochs: passes over the training images.
        batch_size: images a step.
        lr: Adam's learning rate at the start.
        adam_eps: Adam's epsilon.
        schedule: of the learning rate: cosine, iwae or constant.
        kl_warmup: epochs over which the KL term's weight rises to 1.
        clip_grad_norm: bound on the norm of the gradient; by default there is none.
        patience: stop after this many epochs without a better validation bound; by default never.
        compile: how steps and weights are computed: off, trace, inductor. (auto chooses by measured times, so that a
            second run of a cell may differ by rounding.)
        device: cpu, cuda, mps.
        num_test: test images to measure; by default all.
        num_samples: K, importance samples an image for the log-likelihood.
        elbo_samples: samples an image for the ELBO.
        num_gaps: test images, from the first on, whose inference gap is split.
        measure: further evaluations, each ``NAME`` or ``NAME(option=value, ...)``, as ``ais(num_test=100)``, whose
            ``num_test`` says how many test images, from the first on, it measures.
        fitted_model: the cell whose fitted model is taken unchanged, so that only the guide is fitted. None fits both.

    Raises:
        ValueError: a part or setting is unknown or out of range; the message says which and suggests the nearest.

    >>> Cell(guide="iaf( num_flows = 2 )").guide, Cell(model="hierarchical_vae").guide
    ('iaf(num_flows=2)', 'bottom_up')
    >>> Cell(seed=1).hash == Cell(seed=1).hash != Cell(seed=2).hash
    True
    """

    model: str = "vae"
    guide: str = ""
    prior: str = "standard_normal"
    likelihood: str = "bernoulli"
    objective: str = "trace_elbo"
    encoder: str = MLP
    decoder: str = MLP
    latent_dim: int = 50
    hidden_dims: tuple[int, ...] = (200, 200)
    encoder_dims: tuple[int, ...] | None = None
    activation: str | None = None
    init_bias: bool = True
    data: str = "mnist-5k"
    labels: bool | str = False
    quadrants: int | None = None
    binarization: str | None = None
    valid_size: int | None = None
    data_seed: int = 0
    seed: int = 0
    epochs: int = EPOCHS
    batch_size: int = BATCH_SIZE
    lr: float = LEARNING_RATE
    adam_eps: float = 1e-8
    schedule: str = "cosine"
    kl_warmup: int = 0
    clip_grad_norm: float | None = None
    patience: int | None = None
    compile: str = "trace"
    device: str = "cpu"
    num_test: int | None = None
    num_samples: int = 500
    elbo_samples: int = 100
    num_gaps: int = 0
    measure: tuple[str, ...] = ()
    fitted_model: "Cell | None" = None

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            object.__setattr__(self, name, _checked(name, getattr(self, name), hint))
        object.__setattr__(self, "guide", self.guide or default_guide(self.model))
        for kind in PARTS:
            object.__setattr__(self, kind, _canonical(kind, getattr(self, kind)))
        self._set_data()
        object.__setattr__(self, "measure", tuple(_canonical("measure", text) for text in self.measure))
        names_of_evaluations = [find_evaluation(parse_part("measure", text)[0]).name for text in self.measure]
        if twice := [name for name in names_of_evaluations if names_of_evaluations.count(name) > 1]:
            raise ValueError(
                f"{argument('measure')}: two evaluations are called {twice[0]!r}: leave out or rename one."
            )
        choices = {"schedule": SCHEDULES, "compile": LEVELS, "binarization": (None, *BINARIZATIONS)}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                names = ", ".join(choice for choice in known if choice is not None)
                raise ValueError(f"{argument(name)} must be one of {names}; got {getattr(self, name)!r}.")
        if self.clip_grad_norm is not None and not self.clip_grad_norm > 0:
            raise ValueError(f"{argument('clip_grad_norm')} must be positive; got {self.clip_grad_norm}.")
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{argument(name)} must be at least {least}; got {value}.")
        if self.quadrants is not None and not 1 <= self.quadrants <= 3:
            raise ValueError(f"{argument('quadrants')} must be 1, 2 or 3; got {self.quadrants}.")
        for name in ("seed", "data_seed"):
            if getattr(self, name) >= 2**64:
                raise ValueError(f"{argument(name)} must be below 2**64; got {getattr(self, name)}.")
        # The files of parts that are not the package's own are read now, before they can be changed after the import.
        _ = self.own_code
        if self.fitted_model is not None:
            differing = [name for name in MODEL_SETTINGS if getattr(self, name) != getattr(self.fitted_model, name)]
            if differing:
                raise ValueError(
                    f"a cell that takes over a model must have its {', '.join(map(argument, MODEL_SETTINGS))}; these "
                    f"differ: {', '.join(map(argument, differing))}."
                )

    def _set_data(self) -> None:
        """Put data and labels into one spelling: an option ``labels`` of the data is this setting."""
        text, labels = canonical_data(self.data)
        if labels is not None and self.labels not in (False, labels):
            raise ValueError(
                f"{argument('labels')} must be the same as that in {argument('data')}, {labels!r}; got {self.labels!r}."
            )
        object.__setattr__(self, "data", text)
        object.__setattr__(self, "labels", _checked("labels", self.labels if labels is None else labels, bool | str))

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Cell":
        """Return the cell of these settings, as read from YAML; ``network`` is that of both sides (:func:`with_sides`).

        Raises:
            ValueError: a setting is unknown (the nearest is suggested), or a value is wrong.

        >>> Cell.of({"guide": "iaf", "hidden_dims": [400]}).hidden_dims
        (400,)
        """
        known = [*(field.name for field in fields(cls)), NETWORK]
        for name in settings:
            if name not in known:
                hint = did_you_mean(str(name), known)
                raise ValueError(f"there is no setting {name!r}.{hint} There are {', '.join(known)}.")
        fitted_model = settings.get("fitted_model")
        if isinstance(fitted_model, Mapping):
            settings = {**settings, "fitted_model": cls.of(fitted_model)}
        return cls(**with_sides(settings))

    def settings(self) -> dict[str, Any]:
        """Return all settings as plain values for YAML, from which :meth:`of` makes the cell again."""
        settings = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}
        return settings | {"fitted_model": self.fitted_model and self.fitted_model.settings()}

    @property
    def evaluations(self) -> dict[str, dict[str, Any]]:
        """The evaluations that measure it, in their order, each with its options; each is after those that it needs.

        >>> Cell(measure=["guide_error(num_test=3)"]).evaluations["reference_posterior"]
        {'num_test': 3}
        """
        plan: dict[str, dict[str, Any]] = {
            "elbo_terms": {"num_samples": self.elbo_samples},
            "log_likelihood": {"num_samples": self.num_samples},
            "active_units": {},
        }
        if self.num_gaps:
            plan["inference_gaps"] = {NUM_TEST: self.num_gaps}
        for text in self.measure:
            name, options = parse_part("measure", text)
            for other in find_evaluation(name).needs.values():
                plan.setdefault(other, {key: value for key, value in options.items() if key == NUM_TEST})
            plan[name] = plan.get(name, {}) | options
        return plan

    @property
    def data_settings(self) -> tuple[Any, ...]:
        """The settings that say which data are loaded, and how."""
        return self.data, self.labels, self.quadrants, self.binarization, self.data_seed, self.valid_size

    @property
    def own_code(self) -> dict[str, str]:
        """The hash of the file of each class or function that is not the package's own.

        They are your own and those of installed packages, by the part, by ``FILE.py:function``, or by ``evaluation
        NAME``.
        """
        return code_of({part: getattr(self, part) for part in PARTS}, self.measure)

    @property
    def packages(self) -> dict[str, str]:
        """The name and version of the installed package of each part that is one's, by the keys of :attr:`own_code`."""
        return packages_of({part: getattr(self, part) for part in PARTS}, self.measure)

    @property
    def hash(self) -> str:
        """Sixteen hex digits, equal for two cells only if they compute the same numbers.

        The hash covers the format, all settings, the hash of the cell whose model is taken over, and the files of
        classes and functions of your own and of installed packages. It does not cover the content of data, which is
        compared when a run is resumed.
        """
        settings = self.settings()
        for name in ADDED_LATER:
            if settings[name] is None:
                del settings[name]
        content = {
            "format": FORMAT,
            **settings,
            "fitted_model": self.fitted_model and self.fitted_model.hash,
            "own": self.own_code,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def with_seed(self, seed: int) -> "Cell":
        """Return the same cell with another seed."""
        return replace(self, seed=seed)

    def label(self, names: Sequence[str]) -> str:
        """Return a name that tells it from other cells: the values of the settings by which they differ.

        >>> Cell(guide="iaf", seed=3).label(["guide", "seed"])
        'iaf, seed 3'
        """
        words = []
        for name in names:
            value = getattr(self, name)
            text = "-".join(map(str, value)) if isinstance(value, tuple) else str(value)
            # A guide or a prior needs no name of its setting; a network may be encoder or decoder.
            words.append(text if name in KINDS else f"{name} {text}")
        return ", ".join(words) or self.guide


def with_sides(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings in which ``network`` is the encoder and the decoder, where these are not named themselves.

    A cell has no ``network`` of its own, so that its hash is that of the same cell with both sides named.

    Raises:
        ValueError: there is no such network, or it has no such option.

    >>> with_sides({"network": "conv", "decoder": "mlp"})
    {'encoder': 'conv', 'decoder': 'mlp'}
    """
    network = settings.get(NETWORK)
    sides = {} if network is None else dict.fromkeys(SIDES, _canonical(NETWORK, _checked(NETWORK, network, str)))
    return sides | {name: value for name, value in settings.items() if name != NETWORK}


MEASUREMENT = ("num_test", "num_samples", "elbo_samples", "num_gaps", "measure")
"""Settings of the measurement of a cell, which do not change how it is fitted."""

LEAST = {
    "latent_dim": 1, "epochs": 1, "batch_size": 1, "lr": 0.0, "adam_eps": 0.0, "kl_warmup": 0, "patience": 1,
    "seed": 0, "data_seed": 0, "valid_size": 0, "num_test": 2, "num_samples": 1, "elbo_samples": 2, "num_gaps": 0,
}  # fmt: skip
"""The smallest value of each setting."""


def _canonical(kind: str, text: str) -> str:
    """Return a part or an evaluation, with its options, in one spelling.

    Args:
        kind: of :data:`pyro_vae.parts.CHOICES`, or ``"measure"``.
        text: ``NAME`` or ``NAME(option=value, ...)``.

    Raises:
        ValueError: there is no part or evaluation of that name, or it has no such option.
    """
    name, options = parse_part(kind, text)
    if kind != "measure":
        check_options(kind, text)
    else:
        who = f"{argument('measure')}: "
        try:
            check_evaluation_options(name, options)
        except RunError:
            raise
        except ValueError as error:
            raise ValueError(who + str(error).removeprefix(who)) from error
    name = canonical_name(name)
    in_text = ", ".join(f"{option}={value!r}" for option, value in sorted(options.items()))
    return f"{name}({in_text})" if in_text else name


def canonical_name(name: str) -> str:
    """Return a part's name, with the absolute path of its file, which a worker in another folder needs."""
    where, _, class_name = name.rpartition(":")
    return f"{Path(where).resolve()}:{class_name}" if where.endswith(".py") else name


IN_WORDS: dict[Any, str] = {
    int: "a whole number", float: "a number", str: "text", bool: "true or false", NoneType: "nothing (null)",
    tuple[int, ...]: "a list of positive whole numbers", tuple[str, ...]: "a list of texts",
}  # fmt: skip
"""The types of settings in words; the only other type is :class:`Cell`."""


def _checked(name: str, value: Any, hint: Any) -> Any:
    """Return a setting's value in its type, and raise a ValueError if it is of another type.

    Numbers and texts are converted to float, lists to tuples.
    """
    kinds = get_args(hint) if get_origin(hint) is UnionType else (hint,)
    for kind in kinds:
        if kind is float:
            # YAML takes 1e-3, without a point, for text.
            with contextlib.suppress(TypeError, ValueError, OverflowError):
                if not isinstance(value, bool) and math.isfinite(float(value)):
                    return float(value)
        elif get_origin(kind) is tuple:
            item = get_args(kind)[0]
            if isinstance(value, list | tuple) and all(_is(each, item) and (item is str or each > 0) for each in value):
                return tuple(value)
        elif _is(value, kind):
            return value
    wanted = " or ".join(IN_WORDS.get(kind, "the settings of a cell") for kind in kinds)
    raise ValueError(f"{argument(name)} must be {wanted}; got {shown(value)}.")


def _is(value: Any, kind: type) -> bool:
    """Whether a value is of a type; True and False are no numbers."""
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))

"""How the samples of a run lie beside its data: in an outer plate, in repeated rows, or each in a run of its own."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor

from pyro_vae.programs.modules import repeated
from pyro_vae.programs.particles import PARTICLES, BatchPlate, Particles, Site
from pyro_vae.protocols import Program


class Layout(ABC):
    """Where the samples of one run are, and how values ``(num_samples, *rest)`` of a site are handed to it."""

    together = True
    """Whether one run holds several samples."""
    subsampled = False
    """Whether the data are repeated in a plate that stands for a number of data of its own."""

    def chunks(self, num_samples: int) -> list[tuple[slice, int]]:
        """Return which samples lie in one run, and how many these are."""
        return [(slice(None), num_samples)]

    def program(self, program: Program, num_samples: int) -> Program:  # noqa: ARG002
        """Return the program that draws so many samples in one run."""
        return program

    def arguments(self, args: tuple[Any, ...], num_samples: int) -> tuple[Any, ...]:  # noqa: ARG002
        """Return the arguments that such a run takes."""
        return args

    def repeats(self, num_samples: int) -> int:  # noqa: ARG002
        """Return how often such a run holds each datum."""
        return 1

    @abstractmethod
    def inside(self, values: Tensor, event_dim: int) -> Tensor:
        """Return a site's values ``(num_samples, *rest)`` in the shape that they have in a run."""

    @abstractmethod
    def apart(self, run: Particles, site: Site) -> Tensor:
        """Return a site's value in a run as ``(num_samples, *rest)``."""


@dataclass(frozen=True)
class OuterPlate(Layout):
    """Samples lie in a plate of their own, left of all others: the programs see one more batch dim."""

    dim: int
    """Of that plate, negative."""

    def program(self, program: Program, num_samples: int) -> Program:
        """Return the program inside the plate."""
        return pyro.plate(PARTICLES, num_samples, dim=self.dim)(program)

    def inside(self, values: Tensor, event_dim: int) -> Tensor:  # noqa: ARG002
        """Return the values as they are."""
        return values

    def apart(self, run: Particles, site: Site) -> Tensor:
        """Return the value as it is; one that all samples share, expanded."""
        value = site["value"]
        shared = value.ndim + self.dim - site["fn"].event_dim < 0
        return value.expand(run.shape[0], *value.shape) if shared else value


@dataclass(frozen=True)
class RepeatedRows(Layout):
    """Samples lie in the batch plate: the data are repeated, and a program sees a batch of samples times data."""

    plate: BatchPlate
    per_datum: tuple[bool, ...]
    """Which arguments are repeated with the data."""
    subsampled: bool = False
    """Whether the plate stands for a number of data of its own, as ``plate(N, subsample_size=len(x))`` does."""

    def program(self, program: Program, num_samples: int) -> Program:
        """Return the program with a subsampled plate that takes the rows of one sample for all of them."""
        return RepeatedSubsample(self.plate, num_samples)(program) if self.subsampled else program

    def arguments(self, args: tuple[Any, ...], num_samples: int) -> tuple[Any, ...]:
        """Return the arguments with all data, so many times one after the other."""
        return tuple(
            repeated(arg, num_samples) if repeats else arg for arg, repeats in zip(args, self.per_datum, strict=True)
        )

    def repeats(self, num_samples: int) -> int:
        """Return the number of samples."""
        return num_samples

    def inside(self, values: Tensor, event_dim: int) -> Tensor:
        """Return the values with samples and data in one dim."""
        dim = values.ndim - 1 - event_dim + self.plate.dim
        return values.movedim(0, dim).flatten(dim, dim + 1)

    def apart(self, run: Particles, site: Site) -> Tensor:
        """Return the value with the samples in a dim of their own."""
        value = site["value"]
        dim = value.ndim - site["fn"].event_dim + self.plate.dim
        return value.unflatten(dim, (run.repeats, -1)).movedim(dim, 0)


class FixedValues(Messenger):
    """Gives latent sites the values of a table: as a run has them, or ``(num_samples, *rest)`` for a layout."""

    def __init__(self, values: Mapping[str, Tensor], layout: Layout | None = None) -> None:
        super().__init__()
        self._values, self._layout = values, layout

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self._values and not msg["is_observed"]:
            value = self._values[msg["name"]]
            inside = value if self._layout is None else self._layout.inside(value, msg["fn"].event_dim)
            msg["value"], msg["done"] = inside, True


class FixedRows(Messenger):
    """Makes subsampled plates take the given rows, by the plate's name."""

    def __init__(self, rows: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._rows = rows

    def _pyro_sample(self, msg: Any) -> None:
        if isinstance(msg["fn"], _Subsample) and msg["name"] in self._rows:
            msg["value"], msg["done"] = self._rows[msg["name"]], True


class RepeatedSubsample(Messenger):
    """Gives a subsampled plate the rows that it takes for one sample, so many times one after the other."""

    def __init__(self, plate: BatchPlate, times: int) -> None:
        super().__init__()
        self._plate, self._times = plate, times

    def _pyro_sample(self, msg: Any) -> None:
        fn = msg["fn"]
        if msg["name"] == self._plate.name and isinstance(fn, _Subsample) and fn.subsample_size is not None:
            msg["fn"] = _RepeatedRows(fn, self._times)


class _RepeatedRows(_Subsample):
    """The rows of a subsample, so many times."""

    def __init__(self, rows: _Subsample, times: int) -> None:
        super().__init__(rows.size, (rows.subsample_size or 0) // times, rows.use_cuda, rows.device)
        self._times = times

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draw them."""
        return super().sample(sample_shape).repeat(self._times)


class OneByOne(Layout):
    """Each sample has a run of its own."""

    together = False

    def inside(self, values: Tensor, event_dim: int) -> Tensor:  # noqa: ARG002
        """Return the one sample's values."""
        return values[0]

    def chunks(self, num_samples: int) -> list[tuple[slice, int]]:
        """Return the samples one by one."""
        return [(slice(k, k + 1), 1) for k in range(num_samples)]

    def apart(self, run: Particles, site: Site) -> Tensor:  # noqa: ARG002
        """Return the value as that of one sample."""
        return site["value"].unsqueeze(0)

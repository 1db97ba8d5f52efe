"""Results of evaluations: estimates by name, and the facts that say how far they can be trusted."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from torch import Tensor

from pyro_vae.evaluation.estimate import Estimate, html_table


@dataclass(frozen=True, eq=False, kw_only=True)
class Result:
    """The base of all results: :meth:`summary`, tables and files follow from the estimates and :meth:`facts`."""

    columns: ClassVar[Mapping[str, str] | None] = None
    """Which estimates and facts become columns of a comparison, each with one of "higher", "lower" and "": which of its
    values is better, by which configurations are ranked, or "" where neither is. None makes columns of all estimates,
    which are not ranked. ``"rate[]"`` stands for the rate of each part, as ``"rate[z1]"``."""

    datum: str = "datum"
    """What a datum is called."""

    @property
    def estimates(self) -> dict[str, Estimate]:
        """The estimates, by the names that they have in files, tables and reports."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in values if isinstance(value, Estimate)}

    def facts(self) -> dict[str, Any]:
        """Return how the estimates were made, and what speaks against them: numbers and text, for a file."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """Return further numbers of each datum that belong in a file, each ``(N,)``, by name."""
        return {}

    def summary(self) -> dict[str, Any]:
        """Return each estimate's :meth:`Estimate.summary` by its name, and all :meth:`facts`, for a file."""
        return {name: Estimate.summary(estimate) for name, estimate in self.estimates.items()} | self.facts()

    def _repr_html_(self) -> str:
        return html_table(self.estimates, str(self))


@dataclass(frozen=True, eq=False, kw_only=True)
class BoundResult(Result):
    """The base of results that are bounds on log p(x), unless there is a caveat."""

    caveat: str | None = None
    """Why the numbers are no bounds on a log-likelihood; None where they are."""
    given: str | None = None
    """What the model says that it has no density of, by its attribute ``given``, as "y"; None where it says nothing."""

    @property
    def evidence_in_words(self) -> str:
        """What is bounded: "log p(x)", or "log p(x | y)"."""
        return "log p(x)" if self.given is None else f"log p(x | {self.given})"

    @property
    def bound(self) -> bool:
        """Whether the numbers are bounds on a log-likelihood."""
        return self.caveat is None


@dataclass(frozen=True, eq=False, kw_only=True)
class LogProbabilityResult(BoundResult):
    """The base of results in nats that are also given in bits for each element of x, where x is discrete."""

    bits_name: ClassVar[str] = "bits_per_dim"
    """What the estimate in bits is called."""

    num_dims: int | None = None
    """Elements of a datum, where x is discrete with more than two values; else None."""

    def log_probability(self) -> Estimate:
        """Return the estimate that is also given in bits."""
        raise NotImplementedError

    @property
    def bits_per_dim(self) -> Estimate | None:
        """Minus the nats in bits for each element, where x is discrete with more than two values; else None."""
        return None if self.num_dims is None else self.log_probability().in_bits(self.num_dims)

    @property
    def estimates(self) -> dict[str, Estimate]:
        """The estimates in nats and, where there are any, the bits per dim."""
        bits = self.bits_per_dim
        return super().estimates | ({} if bits is None else {self.bits_name: bits})

    @property
    def bits_in_words(self) -> str:
        """The bits per dim, with a semicolon before them; nothing where there are none."""
        bits = self.bits_per_dim
        return "" if bits is None else f"; {bits.mean:.3f} bits/dim ({bits.errors_in_words}; D = {self.num_dims})"

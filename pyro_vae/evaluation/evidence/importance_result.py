"""What a result says of the importance weights that it is made of: k-hats, lost roundings, data without mass."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyro_vae.evaluation.estimate import Estimate
from pyro_vae.evaluation.evidence.pareto import MIN_SAMPLES, khat_threshold
from pyro_vae.evaluation.result import BoundResult
from pyro_vae.programs.precision import UNRESOLVED
from pyro_vae.runtime.wording import count


@dataclass(frozen=True, eq=False, kw_only=True)
class ImportanceResult(BoundResult):
    """The base of results that are made of importance weights, many for each datum."""

    pareto_k: Tensor = field(repr=False)
    """Pareto k-hat of each, ``(N,)``: above :attr:`khat_thresholds` the estimate and its error are not dependable.

    -inf where the weights are as good as equal; NaN where nothing is known, as
    :func:`pyro_vae.evaluation.evidence.pareto.pareto_k` says.
    """
    num_samples: int
    """The most samples that a datum may have."""
    without_mass: Tensor = field(repr=False)
    """Which data have no weight above 0, so that log p^(x) is -inf, ``(N,)``."""
    lost: Tensor = field(repr=False)
    """Which data have weights that roundings may move by more than 0.1 nats, ``(N,)``."""

    @property
    def samples_per_datum(self) -> Tensor:
        """How many samples each estimate is made of, ``(N,)``, integers."""
        return torch.full((len(self.pareto_k),), self.num_samples)

    @property
    def khat_threshold(self) -> float:
        """min(1 - 1 / log10 K, 0.7), of the K that a datum has at most."""
        return khat_threshold(self.num_samples)

    @property
    def khat_thresholds(self) -> Tensor:
        """min(1 - 1 / log10 K, 0.7) for the K of each, ``(N,)``."""
        return torch.tensor([khat_threshold(k) for k in self.samples_per_datum.tolist()], dtype=torch.float64)

    @property
    def khat_above(self) -> Estimate:
        """Whether the k-hat of each datum is above its threshold, 1 or 0; NaN where there is none.

        How far other samples would change it is not known.
        """
        above = (self.pareto_k > self.khat_thresholds).double().masked_fill(self.pareto_k.isnan(), torch.nan)
        return Estimate(above, torch.full_like(above, torch.nan), unit="share", datum=self.datum)

    @property
    def unresolved(self) -> Tensor:
        """Which data have weights that are lost in rounding, or differ by no more than roundings may, ``(N,)``."""
        unknown = self.pareto_k.isnan() & (self.samples_per_datum >= MIN_SAMPLES)
        return unknown & ~self.without_mass | self.lost

    @property
    def estimates(self) -> dict[str, Estimate]:
        """The estimates, and the share of k-hats above their thresholds."""
        return super().estimates | {"khat_above": self.khat_above}

    def tensors(self) -> dict[str, Tensor]:
        """Return the k-hat of each datum."""
        return {"pareto_k": self.pareto_k}

    def facts(self) -> dict[str, Any]:
        """Return how many samples there were, and what speaks against the numbers."""
        return {
            "num_samples": self.num_samples,
            "khat_threshold": self.khat_threshold,
            "num_unresolved": int(self.unresolved.sum()),
            "num_without_mass": int(self.without_mass.sum()),
            "bound": self.bound,
        }

    def khat_in_words(self, threshold: str) -> str:
        """Say for which share of the data the k-hat is above its threshold, and how many have none.

        Args:
            threshold: what it is called.
        """
        above = self.khat_above
        size, unknown = above.num_data, int(above.left_out.sum())
        if self.num_samples < MIN_SAMPLES:
            return f"k-hat needs K >= {MIN_SAMPLES}; {count(size, self.datum)}"
        if unknown == size:
            return f"k-hat unknown for {count(size, self.datum)}"
        words = f"k-hat > {threshold} for {100 * above.mean:.1f} % of {count(size - unknown, self.datum)}"
        return f"{words}, unknown for {unknown} of {size}" if unknown else words

    @property
    def cautions(self) -> list[str]:
        """What is wrong with the weights of some data, a sentence for each kind."""
        sentences = [UNRESOLVED] if self.unresolved.any() else []
        if self.without_mass.any():
            data = count(len(self.without_mass), self.datum)
            sentences.append(f"{int(self.without_mass.sum())} of {data} have no weight above 0: log p^ is -inf")
        return sentences

"""Accuracy of a linear classifier from latent means to labels."""

import math
import warnings
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.evaluation.estimate import Estimate
from pyro_vae.evaluation.over_data.posterior_means import posterior_means
from pyro_vae.evaluation.result import Result
from pyro_vae.programs.modules import data_args, num_rows
from pyro_vae.protocols import Program
from pyro_vae.runtime.checks import check_number, in_short
from pyro_vae.runtime.random_state import seeded
from pyro_vae.runtime.wording import count

MOST_STEPS = 1000
"""LBFGS steps, at most: ten classes and fifty units need tens to a few hundred."""

SMALLEST_GRADIENT = 1e-7
"""The largest element of the gradient, in nats, at which the optimum is reached."""


@dataclass(frozen=True, eq=False, kw_only=True)
class LinearProbe(Result):
    """What :func:`linear_probe` returns."""

    columns = MappingProxyType({"accuracy": "higher"})

    accuracy: Estimate
    """Whether each test label is predicted, 1 or 0, and their share. The error over data is that of another test set.
    Monte Carlo errors are 0 where the means are exact, and NaN, unknown, where they are taken over samples."""
    majority: float
    """Accuracy on the test data of the training data's most frequent class."""
    num_classes: int
    num_train: int
    latent_dim: int
    l2: float
    converged: bool
    """Whether the optimum, which is unique, is reached: no gradient above 1e-7, or a loss that no longer falls."""

    def facts(self) -> dict[str, Any]:
        """Return the size of the probe and of its training data, and the accuracy of the majority class."""
        return {
            "majority_accuracy": self.majority,
            "num_classes": self.num_classes,
            "num_train": self.num_train,
            "latent_dim": self.latent_dim,
            "l2": self.l2,
            "converged": self.converged,
        }

    def __str__(self) -> str:
        errors = f"data s.e. {100 * self.accuracy.data_standard_error:.2g}"
        if math.isnan(self.accuracy.standard_error):
            errors = f"Monte Carlo s.e. unknown, {errors}"
        text = (
            f"linear probe {100 * self.accuracy.mean:.2f} % ({errors}; {self.accuracy.num_data} test labels of "
            f"{self.num_classes} classes, {self.num_train} to learn from, {count(self.latent_dim, 'latent unit')}; the "
            f"majority class {100 * self.majority:.2f} %)"
        )
        return text if self.converged else f"{text}; not converged: raise l2"


def linear_probe(
    guide: Program,
    train_x: Any,
    train_labels: Tensor,
    test_x: Any,
    test_labels: Tensor,
    *,
    site: str | None = None,
    l2: float = 1e-3,
    num_samples: int = 50,
    seed: int | None = None,
) -> LinearProbe:
    r"""Measure the accuracy of multinomial logistic regression from the means of q(z | x) to labels.

    .. math::
        \min_{W, b} \; -\frac1N \sum_n \log \mathrm{softmax}(W m_n + b)_{y_n} + \frac{\lambda}{2} \|W\|^2

    m_n is the posterior mean of datum n, each unit shifted and scaled to mean 0 and variance 1 over the training data
    that have it; a unit that a mask hides from a datum counts as 0 there. The mean of a Categorical site is that of the
    class index, which depends on the order of the classes.
    The problem is strictly convex in W and solved to its optimum in float64 by scikit-learn's LBFGS: nothing is drawn,
    except by a guide without ``posterior(x)``, whose means are taken over samples.

    Args:
        guide: q(z | x).
        train_x: data ``(num_train, ...)``, or a tuple of all positional arguments that starts with them.
        train_labels: integers ``(num_train,)``, of two classes or more, under any numbers.
        test_x: data ``(num_test, ...)`` that the probe has not seen, or such a tuple.
        test_labels: ``(num_test,)``; a class that is not in training counts as missed.
        site: a latent site; None for all of them, whose means are put beside one another.
        l2: :math:`\lambda`, above 0.
        num_samples: samples for each datum, where the mean is not closed.
        seed: of these samples; None draws from the global generator.

    Raises:
        ValueError: labels are no integers or do not fit the data, there is one class, ``l2`` is not positive, x is
            empty or not finite, or the guide has no such site.

    References:
        G. Alain, Y. Bengio (2016), *Understanding intermediate layers using linear classifier probes*,
        arXiv 1610.01644.
    """
    check_number("linear_probe", "l2", l2)
    if not l2 > 0:
        raise ValueError(f"linear_probe: l2 must be positive; got {l2}. Without it, separable classes have no optimum.")
    for name, x, labels in (("train", train_x, train_labels), ("test", test_x, test_labels)):
        size = num_rows(data_args("linear_probe", x, guide)[0])
        is_tensor = isinstance(labels, Tensor)
        if not is_tensor or labels.is_floating_point() or labels.is_complex() or labels.shape != (size,):
            got = f"{labels.dtype} of shape {tuple(labels.shape)}" if is_tensor else in_short(labels)
            raise ValueError(
                f"linear_probe: {name}_labels must be a tensor of integers of shape ({size},), one for each datum of "
                f"{name}_x; got {got}."
            )
    classes, targets = train_labels.cpu().unique(return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"linear_probe: train_labels must have at least 2 classes; got {classes.tolist()}. "
            f"Draw the training data from all of them."
        )
    with seeded(seed):
        means, test_means = (posterior_means("linear_probe", guide, x, site, num_samples) for x in (train_x, test_x))
    loc = means.over_data(means.mean)
    scale = means.over_data((means.mean - loc).square()).sqrt()
    # A masked unit stands at the mean of the data that have it, where it says nothing.
    loc = loc.nan_to_num()
    train, test = (
        part.mean if part.there is None else torch.where(part.there, part.mean, loc) for part in (means, test_means)
    )
    # A unit that varies by rounding only is no feature.
    scale = torch.where(scale > 1e-6 * train.abs().amax(0), scale, math.inf)
    weight, converged = _fit((train - loc) / scale, targets, len(classes), l2)
    scores = (test - loc) / scale @ weight[:-1] + weight[-1]
    truth = test_labels.cpu()
    exact = not (means.noise.nan_to_num().any() or test_means.noise.nan_to_num().any())
    correct = (classes[scores.argmax(1)] == truth).double()
    return LinearProbe(
        accuracy=Estimate(correct, torch.full_like(correct, 0.0 if exact else math.nan), unit="share"),
        majority=(truth == classes[targets.bincount().argmax()]).double().mean().item(),
        num_classes=len(classes),
        num_train=len(train),
        latent_dim=train.shape[1],
        l2=l2,
        converged=converged,
    )


def _fit(features: Tensor, targets: Tensor, num_classes: int, l2: float) -> tuple[Tensor, bool]:
    """Return W over b, ``(latent_dim + 1, num_classes)``, at the optimum, and whether it was reached."""
    from sklearn.exceptions import ConvergenceWarning  # Slow to import, and seldom needed.
    from sklearn.linear_model import LogisticRegression

    # For two classes it holds the difference w of two opposite columns of W, each of them w / 2 or -w / 2.
    strength = 1 / (l2 * len(features)) * (2 if num_classes == 2 else 1)
    regression = LogisticRegression(C=strength, tol=SMALLEST_GRADIENT, max_iter=MOST_STEPS)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        regression.fit(features.numpy(), targets.numpy())
    weight = torch.from_numpy(np.vstack([regression.coef_.T, regression.intercept_]))
    if num_classes == 2:
        weight = torch.cat([-weight, weight], 1) / 2
    return weight, not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)

"""The quantities that the evaluations of a cell measure, under their names in tables, rankings and reports."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyro_vae.comparison.evaluations import CORE, evaluations, result_class

ABBREVIATIONS = {
    "elbo": "ELBO",
    "iwae": "IWAE",
    "kl": "KL",
    "rms": "RMS",
    "sd": "s.d.",
    "ess": "ESS",
    "khat": "k-hat",
    "num": "number",
}
"""Words of a quantity's name that are written differently in a title."""

EVALUATIONS_IN_TITLES = {"ais": "AIS", "bdmc": "BDMC", "sbc": "SBC"}


@dataclass(frozen=True)
class Quantity:
    """An estimate or a number in an evaluation's summary that is a column of tables."""

    name: str
    """Its key, or ``EVALUATION.KEY``, as :func:`name_of` says."""
    evaluation: str
    key: str
    """Its name in the evaluation's summary."""
    better: str = ""
    """Which of its values are better: "higher", "lower", or "" if neither are."""
    unit: str = ""
    """Unit of an estimate, as "nats"; "" for a number."""

    @property
    def place(self) -> str:
        """The name under which its values of each datum are stored."""
        return f"{self.evaluation}.{self.key}"

    def title(self, bound: bool = True) -> str:
        """Return its title in a table, without its unit.

        Args:
            bound: whether log-likelihoods are lower bounds.

        >>> Quantity("elbo", "elbo_terms", "elbo").title()
        'ELBO'
        >>> Quantity("ais.log_likelihood", "ais", "log_likelihood").title()
        'AIS: log p(x) ≥'
        """
        if self.key == "log_likelihood":
            text = "log p(x) ≥" if bound else "log p(x), no bound"
        elif self.key == "bits_per_dim":
            text = "bits/dim ≤" if bound else "bits/dim"
        else:
            text = " ".join(ABBREVIATIONS.get(word, word) for word in self.key.split("_")).replace("r hat", "R-hat")
        if "." not in self.name and self.evaluation not in EVALUATIONS_IN_TITLES:
            return text
        return f"{EVALUATIONS_IN_TITLES.get(self.evaluation, self.evaluation.replace('_', ' '))}: {text}"

    def head(self, bound: bool = True) -> str:
        """Return its title with its unit; nats, the default unit of tables, are left out.

        >>> Quantity("khat_above", "log_likelihood", "khat_above", unit="share").head()
        'k-hat above, %'
        """
        title = self.title(bound)
        unit = "%" if self.unit == "share" else self.unit
        return title if unit in ("", "nats") or unit in title else f"{title}, {unit}"


def quantities_of(measured: Mapping[str, Mapping[str, Any]], own: Mapping[str, type]) -> dict[str, Quantity]:
    """Return the quantities of a cell that are columns of tables, by name.

    These are the estimates and numbers that a result class names in ``columns``, where ``"rate[]"`` stands for
    ``"rate[z1]"`` and whatever else of this kind the summary has. If it names none, they are all
    estimates of an evaluation of the user's own; and of one of the package's, the estimates that no other evaluation
    has.

    Args:
        measured: the summary of each evaluation, by the evaluation's name, in the order of measurement.
        own: classes of the results of evaluations of the user's own, by the evaluation's name.
    """
    quantities: dict[str, Quantity] = {}
    for evaluation, summary in measured.items():
        columns = getattr(own.get(evaluation) or result_class(evaluation), "columns", None)
        if columns is None:
            estimates = [key for key, value in summary.items() if is_estimate(value)]
            columns = {key: "" for key in estimates if evaluation in own or name_of(evaluation, key) == key}
        for key, better in _with_parts(columns, summary).items():
            value: Any = summary.get(key)
            if is_estimate(value) or isinstance(value, int | float):
                name, unit = name_of(evaluation, key), "" if isinstance(value, int | float) else value["unit"]
                quantities[name] = Quantity(name, evaluation, key, better, unit)
    return quantities


def _with_parts(columns: Mapping[str, str], summary: Mapping[str, Any]) -> dict[str, str]:
    """Return the columns with a column for each part of those that end in ``[]``.

    >>> _with_parts({"rate[]": "lower"}, {"rate": 3.0, "rate[z1]": 1.0, "rate[z2]": 2.0})
    {'rate[z1]': 'lower', 'rate[z2]': 'lower'}
    """
    parts: dict[str, str] = {}
    for key, better in columns.items():
        if key.endswith("[]"):
            parts |= {name: better for name in summary if name.startswith(key[:-1])}
        else:
            parts[key] = better
    return parts


def name_of(evaluation: str, key: str) -> str:
    """Return the name of a quantity in all tables, which does not depend on what else was measured.

    It is the key, if the key is a column of one of the package's evaluations and of none before that, or if the key is
    the evaluation's name; else it is ``EVALUATION.KEY``.

    >>> name_of("log_likelihood", "log_likelihood"), name_of("ais", "log_likelihood"), name_of("mine", "mine")
    ('log_likelihood', 'ais.log_likelihood', 'mine')
    """
    packaged = dict.fromkeys([*CORE, *evaluations()])
    for other in packaged:
        if key in (getattr(result_class(other), "columns", None) or ()):
            return key if other == evaluation else f"{evaluation}.{key}"
    return key if key == evaluation or evaluation in packaged else f"{evaluation}.{key}"


def is_estimate(value: Any) -> bool:
    """Whether a value of a summary is an estimate's."""
    return isinstance(value, Mapping) and "mean" in value

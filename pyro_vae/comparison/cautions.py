"""What to keep in mind with the numbers of a comparison: what they do not know, and where they are not dependable."""

import math
from collections.abc import Sequence

from pyro_vae.comparison.cell import Cell
from pyro_vae.comparison.comparison import Comparison, Configuration
from pyro_vae.comparison.estimates import estimate
from pyro_vae.comparison.grid import Grid
from pyro_vae.comparison.results import ELBO, UNFINISHED, CellResult
from pyro_vae.evaluation.evidence.pareto import MIN_SAMPLES
from pyro_vae.programs.precision import UNRESOLVED
from pyro_vae.runtime.wording import count

FEW_SEEDS = 2
"""With as many or fewer, a grid says before it runs what it will be able to conclude."""

LEVEL = 0.95
"""Of the intervals of a ranking."""

MANY = 0.5
"""Share of images with a k-hat above the threshold from which on a log-likelihood is said to be in doubt."""


def cautions(comparison: Comparison) -> list[str]:
    """Return what holds of this comparison, a sentence or two each."""
    found, there = comparison.finished, [one for one in comparison.configurations.values() if one.results]
    said = []
    if comparison.failed:
        failed = count(len(comparison.failed), "cell")
        text = f"{failed} of {len(comparison.results)} did not finish and are in no number below."
        errors = sum(result.error != UNFINISHED for result in comparison.failed)
        if found and errors:
            text += (
                f" {errors} of them failed: what is left of a configuration may be better than its failed seeds would "
                f"have been."
            )
        said.append(text)
    if found:
        said += [
            *_of_seeds(comparison, there),
            *_of_images(there),
            *_of_models(found, there),
            *_of_evidence(found, there),
            *_of_gaps(found),
        ]
        said += _of_what_differs(found)
    return said


def _of_seeds(comparison: Comparison, there: Sequence[Configuration]) -> list[str]:
    seeds = [{result.cell.seed for result in one.results} for one in there]
    said = []
    if comparison.unpaired_seeds:
        shared = sorted(set.intersection(*seeds))
        which = ", ".join(map(str, shared)) if shared else "none"
        said.append(
            f"Not every configuration has finished with the same seeds: means in the table are over all of its own, "
            f"rankings over those that all have ({which})."
        )
    return [*said, *_of_few_seeds(there)]


def _of_few_seeds(there: Sequence[Configuration]) -> list[str]:
    alone = [one for one in there if len(one.results) == 1]
    if alone:
        some = len(alone) < len(there)
        which = f"{len(alone)} of {len(there)} configurations" if some else "Each configuration"
        why = ", as rankings pair only seeds that each configuration has" if some else ""
        return [
            f"{which} has one finished seed. What another seed would change is not known: intervals and p-values hold "
            f"for these fitted networks only{why}."
        ]
    fewest = min(len(one.results) for one in there)
    if fewest <= FEW_SEEDS and len(there) > 1:
        return [f"{_conclusion(fewest, len(there))} That two are not told apart does not say that they are equal."]
    return []


def seed_outlook(grid: Grid) -> str | None:
    """Return what a grid of one or two seeds will be able to conclude, to be said before it runs; else None.

    >>> print(seed_outlook(Grid.of({"grid": {"guide": ["mean_field", "iaf"]}, "common": {"seed": 3}})))
    Each of 2 configurations has one seed: intervals and p-values will hold for these fitted networks only, and say \
nothing of what another seed would change. Give three seeds or more.
    """
    seeds: dict[Cell, set[int]] = {}
    for cell in grid.cells:
        seeds.setdefault(cell.with_seed(0), set()).add(cell.seed)
    shared = len(set.intersection(*seeds.values()))
    if len(seeds) < 2 or shared > FEW_SEEDS:
        return None
    if shared == 0:
        return "The configurations have no seed in common: nothing will be paired or ranked. Give all the same seeds."
    if shared == 1:
        which = "has one seed" if len(grid.cells) == len(seeds) else "shares one seed with the others"
        return (
            f"Each of {len(seeds)} configurations {which}: intervals and p-values will hold for these fitted networks "
            f"only, and say nothing of what another seed would change. Give three seeds or more."
        )
    return f"{_conclusion(shared, len(seeds))} Give three seeds or more."


def _conclusion(seeds: int, configurations: int) -> str:
    """Return how large a difference must be to be told apart."""
    pairs = configurations * (configurations - 1) // 2
    least, with_one_more = (_least_difference(number, configurations, pairs) for number in (seeds, seeds + 1))
    return (
        f"With {seeds} seeds of {configurations} configurations, two are told apart from a difference of about "
        f"{least:.2g} standard deviations over seeds on (corrected for {count(pairs, 'pair')}, if seeds spread all "
        f"configurations alike; {with_one_more:.2g} with {seeds + 1} seeds)."
    )


def _least_difference(seeds: int, configurations: int, pairs: int) -> float:
    """Return half the width of a ranking's interval where images add nothing to it, in standard deviations of seeds."""
    from scipy.special import stdtrit

    df = (configurations - 1) * (seeds - 1)
    return -float(stdtrit(df, (1 - LEVEL) / pairs / 2)) * math.sqrt(2 / seeds)


def _of_images(there: Sequence[Configuration]) -> list[str]:
    said = []
    quantities = {name: quantity for one in there for name, quantity in one.results[0].quantities.items()}
    for quantity, described in quantities.items():
        # Gaps have a sentence of their own, and an image without a k-hat is counted with the log-likelihood.
        if described.evaluation == "inference_gaps" or quantity == "khat_above":
            continue
        name = described.title().removesuffix(" ≥")
        for one in there:
            found = estimate(one, quantity)
            if found is not None and found.num_left_out:
                said.append(
                    f"{count(found.num_left_out, 'image')} of {found.num_left_out + found.num_images} have no finite "
                    f"{name} under {one.name} and are in no mean of it: they may be those it is worst at."
                )
    return said


def _of_models(found: Sequence[CellResult], there: Sequence[Configuration]) -> list[str]:
    if len(there) < 2:
        return []
    if all(result.cell.fitted_model is None for result in found):
        return [
            "Each cell was fitted with a model of its own: a difference is what the whole pair gains or loses, not how "
            "much tighter the bound of one model becomes."
        ]
    said = ["Where a guide was fitted to a model that was there before, seconds to fit are those of the guide alone."]
    if any(len(one.results) > 1 and one.results[0].cell.fitted_model is not None for one in there):
        said.append(
            "Seeds of a guide that was fitted to a given model share that model: their spread, intervals and p-values "
            "say nothing of what another fitted model would change."
        )
    return said


def _of_evidence(found: Sequence[CellResult], there: Sequence[Configuration]) -> list[str]:
    said = []
    if not all(result.measured["log_likelihood"].get("bound", True) for result in found):
        said.append("Targets are soft: what is called log p(x) is no bound on a log-likelihood there.")
    shares = [estimate(one, "khat_above") for one in there]
    doubtful = sum(share is not None and share.mean > MANY for share in shares)
    if doubtful:
        said.append(
            f"In {doubtful} of {count(len(there), 'configuration')}, k-hat is above its threshold for more than half "
            f"of the images: the bound on log p(x) may be loose by an unknown amount, its Monte Carlo error is too "
            f"small, and differences may be differences of looseness."
        )
    for key, what in (
        ("num_unresolved", f"have no k-hat and are in no share of k-hats: {UNRESOLVED}"),
        ("num_without_mass", "have no weight above 0: log p^ is -inf, and they are in no share of k-hats"),
    ):
        total = sum(result.measured["log_likelihood"].get(key, 0) for result in found)
        if total:
            said.append(f"{total} of {sum(map(_num_images, found))} images, over all cells, {what}.")
    if any(result.cell.num_samples < MIN_SAMPLES for result in found):
        said.append(
            f"k-hat needs {MIN_SAMPLES} samples an image: without, nothing says whether log p(x) is dependable."
        )
    return said


def _num_images(result: CellResult) -> int:
    return len(result.per_datum[ELBO])


def _of_gaps(found: Sequence[CellResult]) -> list[str]:
    gaps = [result.measured["inference_gaps"] for result in found if "inference_gaps" in result.measured]
    said = []
    if gaps:
        images, tested = gaps[0]["inference_gap"]["num_data"], len(found[0].per_datum[ELBO])
        if images < tested:
            said.append(f"Gaps are those of the first {count(images, 'test image')}, all else of {tested}.")
        measured = sum(gap["inference_gap"]["num_data"] for gap in gaps)
        left_out = sum(gap["inference_gap"]["num_left_out"] for gap in gaps)
        if left_out:
            said.append(f"{left_out} of {measured} images, over all cells, are not finite and left out of the gaps.")
        for key, what in (
            ("num_doubtful", "have no dependable log p(x) to measure their gaps from, by k-hat, flags or convergence"),
            ("num_not_converged", "have a q* that was cut off before it converged: too small an amortization gap, too "
             "large an approximation gap"),
        ):  # fmt: skip
            total = sum(gap.get(key, 0) for gap in gaps)
            if total:
                said.append(f"{total} of {measured} images, over all cells, {what}.")
        larger = sum(bool(gap.get("larger_family")) for gap in gaps)
        if larger:
            said.append(
                f"In {larger} of {count(len(gaps), 'cell')}, the best members are of a family larger than the guide's "
                f"own: the approximation gap is too small there, and the amortization gap too large. Their sum holds."
            )
        apart = sum(bool(gap.get("disagreement")) for gap in gaps)
        if apart:
            said.append(
                f"In {apart} of {count(len(gaps), 'cell')}, estimates of log p(x) that gaps could be measured from "
                f"differ by more than their errors (evaluation.json)."
            )
        families = sorted({str(gap.get("family")) for gap in gaps})
        if len(families) > 1:
            said.append(
                f"Gaps were split with best members of different families ({', '.join(families)}): what is "
                f"approximation gap for one guide may count as amortization gap for another. Their sum compares."
            )
    return said


def _of_what_differs(found: Sequence[CellResult]) -> list[str]:
    said = []
    if len({result.evaluation.get("test_images") for result in found}) > 1:
        said.append("Cells were measured on different test images: their nats cannot be paired.")
    if len({result.cell.labels for result in found}) > 1:
        said.append(
            "Some cells are given the labels y and some are not: log p(x | y) and log p(x) are of the same images, but "
            "the label has told the former what the image shows."
        )
    contents: dict[tuple[str, int | None, bool], set[str]] = {}
    for result in found:
        of_one_name = contents.setdefault((result.cell.data, result.cell.valid_size, result.cell.labels), set())
        of_one_name.add(result.evaluation["data"]["content_hash"])
    for (name, _, _), hashes in contents.items():
        if len(hashes) > 1:
            said.append(
                f"Data called {name} had {len(hashes)} different contents (content_hash in evaluation.json): not all "
                f"cells were fitted to the same images."
            )
    if len({result.cell.objective for result in found}) > 1:
        said.append(
            "Objectives differ: learning curves show the bound that each maximises, and those do not compare. ELBO and "
            "log p(x) do."
        )
    if len({tuple(sorted(result.evaluation.get("environment", {}).items())) for result in found}) > 1:
        said.append("Cells ran in different environments: seconds do not compare, and numbers may differ by rounding.")
    return said

"""Say in sentences how far the numbers of a comparison can be relied on."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pyro_vae.comparison.cell import Cell
from pyro_vae.comparison.comparison import Comparison
from pyro_vae.comparison.estimates import Configuration, estimate, is_measured
from pyro_vae.comparison.grid import Grid
from pyro_vae.comparison.quantities import Quantity
from pyro_vae.comparison.results import ELBO, UNFINISHED, CellResult
from pyro_vae.evaluation.evidence.pareto import MIN_SAMPLES
from pyro_vae.programs.precision import UNRESOLVED
from pyro_vae.runtime.wording import count

FEW_SEEDS = 2
"""Largest number of seeds for which a caution says how large a difference must be to be told apart."""

LEVEL = 0.95
"""Level of the intervals of a ranking."""

MANY = 0.5
"""Share of images with a k-hat above the threshold from which on a caution doubts the log-likelihood."""


def cautions(comparison: Comparison) -> list[str]:
    """Return what limits the conclusions from a comparison, a sentence or two for each limit."""
    finished = comparison.finished
    configurations = [configuration for configuration in comparison.configurations.values() if configuration.results]
    if not finished:
        return list(_of_failures(comparison))
    return [
        *_of_failures(comparison),
        *comparison.failed_evaluations,
        *_of_seeds(comparison, configurations),
        *_of_images(configurations),
        *_of_fewer_images(finished),
        *_of_models(configurations),
        *_of_evidence(finished, configurations),
        *_of_gaps(finished),
        *_of_what_differs(finished),
    ]


def _of_failures(comparison: Comparison) -> Iterator[str]:
    if comparison.failed:
        failed = count(len(comparison.failed), "cell")
        text = f"{failed} of {len(comparison.results)} did not finish and are in no number below."
        errors = sum(result.error != UNFINISHED for result in comparison.failed)
        if comparison.finished and errors:
            text += f" {errors} of them failed: the seeds that finished may be better than those would have been."
        yield text


def _of_seeds(comparison: Comparison, configurations: Sequence[Configuration]) -> Iterator[str]:
    if comparison.unpaired_seeds:
        shared = sorted(set.intersection(*(configuration.seeds for configuration in configurations)))
        which = ", ".join(map(str, shared)) or "none"
        yield (
            f"Not every configuration has finished with the same seeds: means in the table are over all seeds of a "
            f"configuration, rankings over the seeds that all configurations have ({which})."
        )
    numbers_of_seeds = [len(configuration.results) for configuration in configurations]
    fewest = min(numbers_of_seeds)
    if fewest == 1:
        alone = numbers_of_seeds.count(1)
        only_some = alone < len(configurations)
        which = f"{alone} of {len(configurations)} configurations" if only_some else "Each configuration"
        why = ", as rankings pair only seeds that each configuration has" if only_some else ""
        yield (
            f"{which} has one finished seed. What another seed would change is not known: intervals and p-values hold "
            f"for these fitted networks only{why}."
        )
    elif fewest <= FEW_SEEDS and len(configurations) > 1:
        conclusion = _conclusion(fewest, len(configurations))
        yield f"{conclusion} Two configurations that are not told apart need not be equal."


def seed_outlook(grid: Grid) -> str | None:
    """Return which differences a grid of one or two seeds will show, to be logged before it runs; None for more seeds.

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
    """Return a sentence on how large a difference must be for two configurations to be told apart."""
    pairs = configurations * (configurations - 1) // 2
    least, with_one_more = (_least_difference(number, configurations, pairs) for number in (seeds, seeds + 1))
    return (
        f"With {seeds} seeds of {configurations} configurations, two are told apart from a difference of about "
        f"{least:.2g} standard deviations over seeds on (corrected for {count(pairs, 'pair')}, if seeds spread all "
        f"configurations alike; {with_one_more:.2g} with {seeds + 1} seeds)."
    )


def _least_difference(seeds: int, configurations: int, pairs: int) -> float:
    """Return half the width of a ranking's interval without the error over images, in standard deviations of seeds."""
    from scipy.special import stdtrit

    df = (configurations - 1) * (seeds - 1)
    return -float(stdtrit(df, (1 - LEVEL) / pairs / 2)) * math.sqrt(2 / seeds)


def _of_images(configurations: Sequence[Configuration]) -> Iterator[str]:
    quantities: dict[str, Quantity] = {}
    for configuration in configurations:
        quantities |= configuration.results[0].quantities
    for name, quantity in quantities.items():
        # Gaps have a sentence of their own, and an image without a k-hat is counted with the log-likelihood.
        if quantity.evaluation == "inference_gaps" or name == "khat_above":
            continue
        title = quantity.title().removesuffix(" ≥")
        for configuration in configurations:
            mean = estimate(configuration, name)
            if mean is not None and mean.num_left_out:
                yield (
                    f"{count(mean.num_left_out, 'image')} of {mean.num_left_out + mean.num_images} have no finite "
                    f"{title} under {configuration.name} and are in no mean of it: the guide may fit them worst."
                )
            elif mean is None and is_measured(configuration, name):
                yield f"No image has a finite {title} under {configuration.name} with each seed."


def _of_fewer_images(finished: Sequence[CellResult]) -> Iterator[str]:
    """Yield a sentence for each evaluation that did not measure all test images."""
    sizes: dict[str, set[tuple[int, int]]] = {}
    for result in finished:
        for quantity in result.quantities.values():
            values = result.per_datum.get(quantity.place)
            if values is not None:
                sizes.setdefault(quantity.evaluation, set()).add((len(values), _num_images(result)))
    for evaluation, pairs in sizes.items():
        fewer = sorted({size for size, num_images in pairs if size < num_images})
        if fewer:
            name = "Gaps are" if evaluation == "inference_gaps" else f"Numbers of {evaluation} are"
            first = " or ".join(map(str, fewer))
            all_images = " or ".join(map(str, sorted({num_images for _, num_images in pairs})))
            yield f"{name} those of the first {first} test images, where a cell has {all_images} of them."


def _of_models(configurations: Sequence[Configuration]) -> Iterator[str]:
    if len(configurations) < 2:
        return
    frozen = [configuration for configuration in configurations if configuration.results[0].cell.fitted_model]
    if not frozen:
        yield (
            "Each cell was fitted with a model of its own: a difference is what the whole pair gains or loses, not how "
            "much tighter the bound of one model becomes."
        )
        return
    yield "If a guide was fitted to a model that had been fitted before, seconds to fit are those of the guide alone."
    if any(len(configuration.results) > 1 for configuration in frozen):
        yield (
            "Seeds of a guide that was fitted to a given model share that model: their spread, intervals and p-values "
            "say nothing of what another fitted model would change."
        )


def _of_evidence(finished: Sequence[CellResult], configurations: Sequence[Configuration]) -> Iterator[str]:
    evidence = [result.measured["log_likelihood"] for result in finished]
    if not all(summary.get("bound", True) for summary in evidence):
        yield "Targets are soft: what is called log p(x) is no bound on a log-likelihood there."
    shares = [estimate(configuration, "khat_above") for configuration in configurations]
    doubtful = sum(share is not None and share.mean > MANY for share in shares)
    if doubtful:
        yield (
            f"In {doubtful} of {count(len(configurations), 'configuration')}, k-hat is above its threshold for more "
            f"than half of the images: the bound on log p(x) may be loose by an unknown amount, its Monte Carlo error "
            f"is too small, and differences may be differences of looseness."
        )
    yield from _counted(evidence, sum(map(_num_images, finished)), {
        "num_unresolved": f"have no k-hat and are in no share of k-hats: {UNRESOLVED}",
        "num_without_mass": "have no weight above 0: log p^ is -inf, and they are in no share of k-hats",
    })  # fmt: skip
    if any(result.cell.num_samples < MIN_SAMPLES for result in finished):
        yield f"k-hat needs {MIN_SAMPLES} samples an image: without it, log p(x) may be loose by an unknown amount."


def _counted(summaries: Sequence[Mapping[str, object]], num_images: int, facts: Mapping[str, str]) -> Iterator[str]:
    """Yield a sentence on the number of images, over all cells, for which a fact of an evaluation holds.

    Args:
        summaries: of the evaluation, one for each cell.
        num_images: number of images of all cells together.
        facts: from the name of a number in the summaries to what is true of the images that it counts.
    """
    for name, what in facts.items():
        numbers = [summary.get(name, 0) for summary in summaries]
        total = sum(number for number in numbers if isinstance(number, int))
        if total:
            yield f"{total} of {num_images} images, over all cells, {what}."


def _num_images(result: CellResult) -> int:
    return len(result.per_datum[ELBO])


def _of_gaps(finished: Sequence[CellResult]) -> Iterator[str]:
    summaries = [result.measured["inference_gaps"] for result in finished if "inference_gaps" in result.measured]
    totals = [summary["inference_gap"] for summary in summaries]
    num_images, cells = sum(total["num_data"] for total in totals), count(len(summaries), "cell")
    yield from _counted(totals, num_images, {"num_left_out": "are not finite and left out of the gaps"})
    yield from _counted(summaries, num_images, {
        "num_doubtful": "have no dependable log p(x) to measure their gaps from, by k-hat, flags or convergence",
        "num_not_converged": "have a q* that was cut off before it converged: too small an amortization gap, too large "
                             "an approximation gap",
    })  # fmt: skip
    larger = sum(bool(summary.get("larger_family")) for summary in summaries)
    if larger:
        yield (
            f"In {larger} of {cells}, the best members are of a family larger than the guide's own: the approximation "
            f"gap is too small there, and the amortization gap too large. Their sum holds."
        )
    disagreeing = sum(bool(summary.get("disagreement")) for summary in summaries)
    if disagreeing:
        yield (
            f"In {disagreeing} of {cells}, estimates of log p(x) that gaps could be measured from differ by more than "
            f"their errors (evaluation.json)."
        )
    families = sorted({str(summary.get("family")) for summary in summaries})
    if len(families) > 1:
        yield (
            f"Gaps were split with best members of different families ({', '.join(families)}): a part of the "
            f"approximation gap of one guide may count as amortization gap for another. Only their sums compare."
        )


def _of_what_differs(finished: Sequence[CellResult]) -> Iterator[str]:
    if len({result.evaluation.get("test_images") for result in finished}) > 1:
        yield "Cells were measured on different test images: their nats cannot be paired."
    if len({bool(result.cell.labels) for result in finished}) > 1:
        yield (
            "Some cells are given the labels y and some are not: log p(x | y) and log p(x) are of the same images, but "
            "the label has told the former what the image shows."
        )
    if len({result.cell.quadrants for result in finished}) > 1:
        yield "Different quadrants are given to some cells: their log p(x | y) are of other pixels, and do not compare."
    contents: dict[tuple[Any, ...], set[str]] = {}
    for result in finished:
        key = result.cell.data, result.cell.valid_size, result.cell.labels, result.cell.quadrants
        contents.setdefault(key, set()).add(result.evaluation["data"]["content_hash"])
    for (name, *_), hashes in contents.items():
        if len(hashes) > 1:
            yield (
                f"Data called {name} had {len(hashes)} different contents (content_hash in evaluation.json): not all "
                f"cells were fitted to the same images."
            )
    if len({result.cell.objective for result in finished}) > 1:
        yield (
            "Objectives differ: learning curves show the bound that each maximises, and these do not compare. ELBO and "
            "log p(x) do."
        )
    if len({tuple(sorted(result.evaluation.get("environment", {}).items())) for result in finished}) > 1:
        yield "Cells ran in different environments: seconds do not compare, and numbers may differ by rounding."

"""Which plate holds the data, and whether model and guide sample the same sites: read off their traces."""

from collections.abc import Collection

from pyro.poutine import Trace

from pyro_vae.errors import PairError
from pyro_vae.programs.particles import BatchPlate, Site, latent_sites, observed_sites, samples
from pyro_vae.programs.sites import PLATE


def check_sites(model_trace: Trace, guide_trace: Trace, summed_out: Collection[str] = ()) -> None:
    """Refuse a latent site that only one of the two samples.

    Args:
        model_trace: of the model.
        guide_trace: of the guide.
        summed_out: sites that the model may have alone.

    Raises:
        PairError: lists the sites of both.
    """
    in_model = {site["name"] for site in latent_sites(model_trace)}
    # An auxiliary site is the guide's own: another variable of q, or a factor in its density.
    in_guide = {site["name"] for site in latent_sites(guide_trace) if not site["infer"].get("is_auxiliary")}
    in_model -= set(summed_out) - in_guide
    if in_model != in_guide:
        only = [
            f"only in the {where}: {', '.join(sorted(names))}"
            for where, names in (("model", in_model - in_guide), ("guide", in_guide - in_model))
            if names
        ]
        raise PairError(
            f"model and guide must sample the same latent sites; {'; '.join(only)}. {_both(model_trace, guide_trace)}"
        )


def find_plate(model_trace: Trace, guide_trace: Trace, rows: int | None, name: str | None) -> BatchPlate:
    """Return the one vectorized plate that holds every latent and observed site, and has the data's length.

    Args:
        model_trace: of the model, replayed against the guide's.
        guide_trace: of the guide.
        rows: the data's length, where they have one.
        name: of the plate, where several would do.

    Raises:
        PairError: there is no such plate, or no single one.
    """
    sites = [*samples(model_trace), *samples(guide_trace)]
    if not observed_sites(model_trace):
        raise PairError(f"the model observes nothing. {_both(model_trace, guide_trace)}")
    frames = {f.name: f for site in sites for f in site["cond_indep_stack"] if f.vectorized}
    shared = set.intersection(*(_plates(site) for site in sites))
    if not shared:
        apart = [set.intersection(*map(_plates, samples(trace)), set(frames)) for trace in (model_trace, guide_trace)]
        if all(apart):
            in_model, in_guide = (", ".join(map(repr, sorted(names))) for names in apart)
            raise PairError(
                f"the plate over the data must have one name in model and guide; it is {in_model} in the model and "
                f"{in_guide} in the guide. {_both(model_trace, guide_trace)}"
            )
        raise PairError(
            "no batch plate: every latent and observed site must be inside one vectorized pyro.plate over the "
            f"data (`with pyro.plate('data', len(x), dim=-1):`). {_both(model_trace, guide_trace)}"
        )
    if name is not None and name not in shared:
        raise PairError(f"no plate {name!r} holds all sites. {_both(model_trace, guide_trace)}")
    # A plate made without a size (-1) takes the length of what is inside it.
    candidates = {name} if name is not None else {plate for plate in shared if frames[plate].size in (rows, -1)}
    full_sized = {plate for plate in shared if frames[plate].full_size == rows}
    chosen = candidates or full_sized or (shared if rows is None else set())
    if len(chosen) > 1 and PLATE in chosen:
        chosen = {PLATE}
    if len(chosen) != 1:
        sizes = ", ".join(f"{plate} of {frames[plate].size}" for plate in sorted(shared))
        raise PairError(
            f"no single plate matches the data's {rows} rows among {sizes}: pass plate='NAME', or give the plate "
            f"the length of the data. {_both(model_trace, guide_trace)}"
        )
    frame = frames[chosen.pop()]
    if frame.size == -1 and rows is not None:
        return BatchPlate(frame.name, frame.dim, rows, rows)
    return BatchPlate(frame.name, frame.dim, int(frame.size), int(frame.full_size))


def _plates(site: Site) -> set[str]:
    return {frame.name for frame in site["cond_indep_stack"] if frame.vectorized}


def _listing(trace: Trace) -> str:
    described = (
        f"{site['name']}{' (observed)' if site['is_observed'] else ''} in "
        f"{', '.join(sorted(_plates(site))) or 'no plate'}"
        for site in samples(trace)
    )
    return "; ".join(described) or "no sites"


def _both(model_trace: Trace, guide_trace: Trace) -> str:
    return f"Model: {_listing(model_trace)}. Guide: {_listing(guide_trace)}."

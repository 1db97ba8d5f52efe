"""A pair's description, once what it builds is known to be the pair."""

import contextlib
from collections.abc import Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_vae.errors import RunError
from pyro_vae.fit.describe import build_pair, describe_pair, is_buildable, structure
from pyro_vae.programs.modules import as_args, in_mode, local_params, modules_of
from pyro_vae.programs.undo import VERIFICATION_SEED, no_side_effects
from pyro_vae.protocols import Program
from pyro_vae.runtime.memory import is_out_of_memory
from pyro_vae.runtime.reading import shown
from pyro_vae.runtime.wording import in_one_line


def checked_description(model: Program, guide: Program, x: Any) -> dict[str, Any]:
    """Return what :func:`describe_pair` says, without arguments where they would build something else.

    Constructor arguments do not tell that a part was replaced later, or that an attribute was set by hand. So each of
    the two is built from its description, given the parameters of the one that is there, and run on x with the same
    noise. Where structure, draws or log-probabilities differ, it is recorded by name, with the reason.

    Args:
        model: p(x, z).
        guide: q(z | x).
        x: a batch of model inputs, or a tuple of all positional arguments.
    """
    described = describe_pair(model, guide)
    pair = {"model": model, "guide": guide}
    checked = dict(described)
    for name, other in (("model", "guide"), ("guide", "model")):
        if is_buildable(described[name]):
            with no_side_effects(modules_of(model, guide)), pyro.get_param_store().scope():
                why = _why_another(pair, name, described, {other: pair[other]}, x)
            if why is not None:
                checked[name] = {"class": described[name]["class"], "why": why}
    return checked


def differing_part(before: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """Say which is the first module that is not what it was, None where all are."""
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            return (
                f"{name} was {shown(before.get(name))} when it was fitted, and is {shown(now.get(name))} when it is "
                f"made anew, as where a part is replaced in an object that is there"
            )
    return None


def _why_another(
    pair: Mapping[str, Program], name: str, described: Mapping[str, Any], given: Mapping[str, Program], x: Any
) -> str | None:
    """Return why what the description of one of a pair builds is another; None where it is the same."""
    ours: Any = pair[name]
    try:
        built = build_pair(described, "fit", trust=True, given=given)[name]
        part = differing_part(structure({name: ours}), structure({name: built}))
        if part is not None:
            return part
        _give_parameters(built, ours)
        others = {**pair, name: built}
        with in_mode(modules_of(*pair.values(), built), training=False):
            before, now = _numbers(pair, x), _numbers(others, x)
    except RunError as error:
        return str(error).removeprefix(f"fit: {name}: ")
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return f"what its arguments build cannot be run in its place: {in_one_line(error)}"
    same = before.keys() == now.keys() and all(_alike(before[key], now[key]) for key in before)
    return None if same else "with its parameters and the same noise, what its arguments build gives other numbers"


def _give_parameters(built: nn.Module, ours: nn.Module) -> None:
    """Copy parameters and buffers, in their dtype and to their device."""
    theirs = ours.state_dict(keep_vars=True)
    for key, tensor in built.state_dict(keep_vars=True).items():
        if tensor is not theirs[key]:
            tensor.data = theirs[key].detach().clone()
    for (_, buffer), (_, other) in zip(built.named_buffers(), ours.named_buffers(), strict=True):
        if buffer is not other:
            buffer.data = buffer.data.to(other)


def _numbers(pair: Mapping[str, Program], x: Any) -> dict[str, Tensor]:
    """Return values and log-probabilities of a run of the guide, and of the model on its draws, with the same noise."""
    model, guide = pair["model"], pair["guide"]
    torch.manual_seed(VERIFICATION_SEED)
    numbers = {}
    with torch.no_grad(), local_params(model, guide), pyro.validation_enabled(False):
        of_guide = poutine.trace(guide).get_trace(*as_args(x))
        of_model = poutine.trace(poutine.replay(model, trace=of_guide)).get_trace(*as_args(x))
        for program, trace in (("guide", of_guide), ("model", of_model)):
            for name, site in trace.nodes.items():
                if site["type"] == "sample" and isinstance(site["value"], Tensor):
                    numbers[f"{program} {name} value"] = site["value"]
                    # Some laws have no density, or none of these draws.
                    with contextlib.suppress(NotImplementedError, ValueError):
                        numbers[f"{program} {name} density"] = site["fn"].log_prob(site["value"])
    return numbers


def _alike(ours: Tensor, theirs: Tensor) -> bool:
    """Whether numbers are equal but for the order in which a device adds them up."""
    return ours.shape == theirs.shape and torch.allclose(ours.double(), theirs.double(), 1e-5, 1e-6, equal_nan=True)

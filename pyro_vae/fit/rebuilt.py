"""Check that the description of a pair builds the same pair."""

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
    """Describe a pair as :func:`describe_pair` does, without arguments where they would build something else.

    Constructor arguments do not tell that a part was replaced later, or that an attribute was set by hand. So model and
    guide are each built from their description, given the parameters of the original, and run on x with the same noise.
    Where structure, draws or log-probabilities differ, the object is recorded by name, with the reason.

    Args:
        model: p(x, z).
        guide: q(z | x).
        x: a batch of model inputs, or a tuple of all positional arguments.
    """
    described = describe_pair(model, guide)
    pair = {"model": model, "guide": guide}
    checked = dict(described)
    for name in pair:
        if is_buildable(described[name]):
            with no_side_effects(modules_of(model, guide)), pyro.get_param_store().scope():
                why = _why_another(pair, name, described, x)
            if why is not None:
                checked[name] = {"class": described[name]["class"], "why": why}
    return checked


def differing_part(before: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """Say which module is the first that is no longer what it was, None where there is none."""
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            return (
                f"{name} was {shown(before.get(name))} when it was fitted, and is {shown(now.get(name))} when it is "
                f"made anew, as where a part is replaced in an object that is there"
            )
    return None


def _why_another(pair: Mapping[str, Program], name: str, described: Mapping[str, Any], x: Any) -> str | None:
    """Say how the model or guide that its description builds differs from the one described, None where it does not."""
    original: Any = pair[name]
    given = {other: program for other, program in pair.items() if other != name}
    try:
        built = build_pair(described, "fit", trust=True, given=given)[name]
        part = differing_part(structure({name: original}), structure({name: built}))
        if part is not None:
            return part
        _give_parameters(built, original)
        with in_mode(modules_of(*pair.values(), built), training=False):
            before, now = _numbers(pair, x), _numbers({**pair, name: built}, x)
    except RunError as error:
        return str(error).removeprefix(f"fit: {name}: ")
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return f"what its arguments build cannot be run in its place: {in_one_line(error)}"
    same = before.keys() == now.keys() and all(_alike(before[key], now[key]) for key in before)
    return None if same else "with its parameters and the same noise, what its arguments build gives other numbers"


def _give_parameters(built: nn.Module, original: nn.Module) -> None:
    """Copy parameters and buffers, in the dtype and on the device of the original."""
    state = original.state_dict(keep_vars=True)
    for key, tensor in built.state_dict(keep_vars=True).items():
        if tensor is not state[key]:
            tensor.data = state[key].detach().clone()
    for (_, buffer), (_, other) in zip(built.named_buffers(), original.named_buffers(), strict=True):
        if buffer is not other:
            buffer.data = buffer.data.to(other)


def _numbers(pair: Mapping[str, Program], x: Any) -> dict[str, Tensor]:
    """Return draws and log-probabilities of the guide, and of the model on these draws, always with the same noise."""
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
                    # Some laws have no density, and some draws lie outside their support.
                    with contextlib.suppress(NotImplementedError, ValueError):
                        numbers[f"{program} {name} density"] = site["fn"].log_prob(site["value"])
    return numbers


def _alike(before: Tensor, now: Tensor) -> bool:
    """Whether numbers are equal but for the order in which a device adds them up."""
    return before.shape == now.shape and torch.allclose(before.double(), now.double(), 1e-5, 1e-6, equal_nan=True)

"""The parameters and buffers of a pair, under names that a checkpoint can keep."""

from dataclasses import dataclass, field
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_vae.errors import RunError
from pyro_vae.programs.modules import as_args, local_params, modules_of
from pyro_vae.protocols import Program


def owners_of(model: Program, guide: Program) -> dict[str, nn.Module]:
    """Return the modules that the pair runs, under the names ``model``, ``guide``, ``model_1``, ...

    A module inside another one, or found in the model already, is not named again.
    """
    owners: dict[str, nn.Module] = {}
    for name, program in (("model", model), ("guide", guide)):
        modules = modules_of(program)
        inside = {id(part) for module in modules for part in module.modules() if part is not module}
        inside |= {id(part) for module in owners.values() for part in module.modules()}
        for index, module in enumerate(module for module in modules if id(module) not in inside):
            owners[f"{name}_{index}" if index else name] = module
    return owners


STORE = "store."
"""What the name of a parameter of Pyro's store starts with."""


@dataclass(frozen=True)
class Parameters:
    """The trainable tensors of a pair, the modules that own them, and those that live in Pyro's store."""

    owners: dict[str, nn.Module]
    store: dict[str, Tensor]
    users: dict[str, list[Program]] = field(default_factory=dict)
    """The programs that name each parameter of the store."""

    @classmethod
    def of(cls, model: Program, guide: Program, x: Any) -> "Parameters":
        """Collect the parameters of the modules behind the pair, and those its ``pyro.param`` statements make.

        Args:
            model: p(x, z).
            guide: q(z | x).
            x: data to run the pair on, once.

        Raises:
            ValueError: there is nothing to train.
        """
        parameters = cls(owners_of(model, guide), {})
        owned = {id(p) for module in parameters.modules for p in module.parameters()}
        with torch.no_grad(), local_params(model, guide):
            with poutine.trace(param_only=True) as in_guide:
                guide_trace = poutine.trace(guide).get_trace(*as_args(x))
            with poutine.trace(param_only=True) as in_model:
                poutine.replay(model, trace=guide_trace)(*as_args(x))
        for program, recorded in ((guide, in_guide), (model, in_model)):
            for name, site in recorded.trace.nodes.items():
                value = _unconstrained(site) if site["type"] == "param" else None
                if value is not None and id(value) not in owned:
                    parameters.store[name] = value
                    parameters.users.setdefault(name, []).append(program)
        if not parameters.trainable:
            raise ValueError("fit: neither the model nor the guide has a parameter that requires a gradient.")
        return parameters

    @property
    def modules(self) -> list[nn.Module]:
        """The modules behind the pair."""
        return list(self.owners.values())

    @property
    def trainable(self) -> list[Tensor]:
        """The distinct tensors that require a gradient, in a fixed order."""
        tensors = [p for module in self.modules for p in module.parameters()] + list(self.store.values())
        return list({id(p): p for p in tensors if p.requires_grad}.values())

    def not_finite(self) -> list[str]:
        """Name the trained tensors that hold a NaN or an infinity, and the others that hold a NaN."""
        return [
            name
            for name, tensor in self._tensors().items()
            if (not tensor.isfinite().all() if tensor.requires_grad else tensor.isnan().any())
        ]

    def state(self) -> dict[str, Tensor]:
        """Copy all parameters and buffers, on the CPU, under names like ``model.likelihood.decoder...``."""
        return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in self._tensors().items()}

    def load_state(self, state: dict[str, Tensor], where: str) -> None:
        """Copy ``state`` into the parameters and buffers, in place.

        Raises:
            RunError: names or shapes differ; ``where`` says what was being loaded.
        """
        tensors = self._tensors()
        if missing := sorted(tensors.keys() ^ state.keys()):
            raise RunError(
                f"{where}: its parameters are not those of this model and guide; found in only one of the two: "
                f"{', '.join(missing[:6])}{' ...' if len(missing) > 6 else ''}."
            )
        for name, tensor in tensors.items():
            loaded = state[name]
            if tensor.shape != loaded.shape:
                raise RunError(
                    f"{where}: {name} has shape {tuple(loaded.shape)}, the model and guide at hand need "
                    f"{tuple(tensor.shape)}. Build them with the arguments in config.yaml."
                )
            if (loaded.is_floating_point(), loaded.is_complex()) != (tensor.is_floating_point(), tensor.is_complex()):
                raise RunError(
                    f"{where}: {name} is of {loaded.dtype}, the model and guide at hand need {tensor.dtype}."
                )
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(state[name])

    def _tensors(self) -> dict[str, Tensor]:
        owned = {
            f"{name}.{key}": tensor
            for name, module in self.owners.items()
            for key, tensor in module.state_dict(keep_vars=True).items()
        }
        return owned | {f"{STORE}{name}": tensor for name, tensor in self.store.items()}


def _unconstrained(site: Any) -> Tensor:
    """Return the tensor that a ``pyro.param`` or ``pyro.module`` statement trains."""
    start = site["args"][1] if len(site["args"]) > 1 else None
    if isinstance(start, nn.Parameter):
        # `pyro.module` passes the module's own parameter, which its arithmetic uses, whatever another module of the
        # same name has put into the store.
        return start
    # Without a constraint, Pyro drops the way back to the stored tensor where a module has run since: it is the value.
    value = site["value"]
    return value.unconstrained() if hasattr(value, "unconstrained") else value

"""What torch's optimizers do to a parameter, as arithmetic that a graph can hold.

The numbers that change from step to step (bias corrections, learning rate, a momentum on a schedule) enter as a
tensor, computed in float64 by Python: in the graph they would be powers, or frozen. State stays in
``optimizer.state``, where torch's own step, a checkpoint and a schedule find it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, Adamax, AdamW, Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from pyro_vae.graphs.inductor import NotCompilable

Group = Mapping[str, Any]
"""An optimizer's parameter group: its settings by name."""

UNSUPPORTED = ("differentiable", "amsgrad")
"""Settings that ask for another update than those below."""

FIXED = ("maximize", "momentum", "weight_decay")
"""Settings that a graph has or has not for good; where it has them, the two numbers may still change."""


@dataclass(frozen=True)
class Rule:
    """How one class of optimizer moves a parameter."""

    state: tuple[str, ...]
    """Names, in ``optimizer.state[parameter]``, of the tensors of the parameter's shape."""
    numbers: Callable[[Group, int], tuple[float, ...]]
    """From a group's settings and the number of the step, from 1, to what the arithmetic needs."""
    move: Callable[..., tuple[Tensor, ...]]
    """From parameter, gradient, state and numbers to the parameter and the state after the step."""
    adds_decay: bool = True
    """Whether a weight decay adds to the gradient, as that of a penalty does."""
    counts_steps: bool = True


def _adam_numbers(group: Group, step: int) -> tuple[float, ...]:
    beta1, beta2 = map(float, group["betas"])
    root = math.sqrt(1 - beta2**step)
    rate = float(group["lr"]) * root / (1 - beta1**step)
    return rate, group["eps"] * root, 1 - beta1, beta2, 1 - beta2


def _adam(p: Tensor, g: Tensor, m: Tensor, v: Tensor, *numbers: Tensor) -> tuple[Tensor, ...]:
    """Kingma and Ba (2015), arXiv 1412.6980, section 2: in the order that needs one division."""
    rate, eps, a1, b2, a2 = numbers
    m = m + a1 * (g - m)
    v = b2 * v + a2 * g * g
    return p - rate * m / (v.sqrt() + eps), m, v


def _adamw_numbers(group: Group, step: int) -> tuple[float, ...]:
    return *_adam_numbers(group, step), 1 - float(group["lr"]) * group["weight_decay"]


def _adamw(p: Tensor, g: Tensor, m: Tensor, v: Tensor, *numbers: Tensor) -> tuple[Tensor, ...]:
    """Loshchilov and Hutter (2019), arXiv 1711.05101, algorithm 2."""
    *others, decay = numbers
    return _adam(decay * p, g, m, v, *others)


def _adamax_numbers(group: Group, step: int) -> tuple[float, ...]:
    beta1, beta2 = group["betas"]
    return float(group["lr"]) / (1 - beta1**step), group["eps"], 1 - beta1, beta2


def _adamax(p: Tensor, g: Tensor, m: Tensor, u: Tensor, *numbers: Tensor) -> tuple[Tensor, ...]:
    """Kingma and Ba (2015), arXiv 1412.6980, algorithm 2, with torch's epsilon."""
    rate, eps, a1, b2 = numbers
    m = m + a1 * (g - m)
    u = torch.maximum(b2 * u, g.abs() + eps)
    return p - rate * m / u, m, u


def _sgd_numbers(group: Group, _: int) -> tuple[float, ...]:
    return (float(group["lr"]),)


def _sgd(p: Tensor, g: Tensor, rate: Tensor) -> tuple[Tensor, ...]:
    return (p - rate * g,)


def _momentum_numbers(group: Group, step: int) -> tuple[float, ...]:
    # The first step fills the buffer with the whole gradient, whatever the dampening.
    share = 1.0 if step == 1 else 1 - group["dampening"]
    return *_sgd_numbers(group, step), group["momentum"], share, float(group["nesterov"])


def _momentum(p: Tensor, g: Tensor, b: Tensor, *numbers: Tensor) -> tuple[Tensor, ...]:
    """Sutskever et al. (2013), *On the importance of initialization and momentum*, in torch's form."""
    rate, momentum, share, nesterov = numbers
    b = momentum * b + share * g
    return p - rate * torch.where(nesterov > 0, g + momentum * b, b), b


RULES: dict[type[Optimizer], Rule] = {
    Adam: Rule(("exp_avg", "exp_avg_sq"), _adam_numbers, _adam),
    AdamW: Rule(("exp_avg", "exp_avg_sq"), _adamw_numbers, _adamw, adds_decay=False),
    Adamax: Rule(("exp_avg", "exp_inf"), _adamax_numbers, _adamax),
    SGD: Rule((), _sgd_numbers, _sgd, counts_steps=False),
}
SGD_WITH_MOMENTUM = Rule(("momentum_buffer",), _momentum_numbers, _momentum, counts_steps=False)


class Update:
    """The step of a torch optimizer over some parameters, for a graph to hold.

    Args:
        optimizer: Adam, AdamW, Adamax or SGD; its state is made where it has none yet.
        parameters: those that have a gradient; what the optimizer does not hold stays as it is.

    Raises:
        NotCompilable: another optimizer, or one with hooks or settings that ask for more than its class's update.
    """

    def __init__(self, optimizer: Optimizer, parameters: Sequence[Tensor]) -> None:
        name = type(optimizer).__name__
        if type(optimizer) not in RULES:
            raise NotCompilable(f"{name} is none of {', '.join(known.__name__ for known in RULES)}")
        hooks = (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks)
        if any((*hooks, _global_optimizer_pre_hooks, _global_optimizer_post_hooks)):
            raise NotCompilable(f"{name} has hooks around its step")
        self._optimizer, groups = optimizer, optimizer.param_groups
        places = {id(p): place for place, p in enumerate(parameters)}
        self._rules = [self._rule(group) for group in groups]
        self._held = [{places[id(p)]: p for p in group["params"] if id(p) in places} for group in groups]
        self._made: list[tuple[dict[str, Any], str]] = []
        try:
            self._steps = [self._steps_taken(*each) for each in zip(groups, self._rules, self._held, strict=True)]
        except NotCompilable:
            self.forget()
            raise
        # No lower: bfloat16 takes a beta of 0.999 for 1.
        double = any(p.dtype == torch.float64 for held in self._held for p in held.values())
        self._dtype = torch.float64 if double else torch.float32
        self._fixed = _fixed_settings(optimizer)

    @property
    def tensors(self) -> list[list[Tensor]]:
        """The state of each parameter that moves, in the order of :meth:`__call__`."""
        held = zip(self._rules, self._held, strict=True)
        return [[self._optimizer.state[p][key] for key in rule.state] for rule, moved in held for p in moved.values()]

    @property
    def places(self) -> list[int]:
        """Which of the parameters each that moves is."""
        return [place for held in self._held for place in held]

    @property
    def is_current(self) -> bool:
        """Whether a graph of this update still does what the optimizer is set to."""
        return self._fixed == _fixed_settings(self._optimizer)

    def numbers(self) -> Tensor:
        """Return the numbers of the step to come, one after the other for each group."""
        numbers: list[float] = []
        for group, rule, steps in zip(self._optimizer.param_groups, self._rules, self._steps, strict=True):
            numbers += (*rule.numbers(group, steps + 1), group["weight_decay"])
        return torch.tensor(numbers, dtype=self._dtype)

    def __call__(
        self, parameters: Sequence[Tensor], gradients: Sequence[Tensor], state: Sequence[Sequence[Tensor]],
        numbers: Tensor,
    ) -> list[tuple[Tensor, ...]]:  # fmt: skip
        """Return what each parameter that moves, and its state, become.

        Args:
            parameters: all of them.
            gradients: theirs.
            state: as :attr:`tensors`.
            numbers: as :meth:`numbers`, on the parameters' device.
        """
        moved, start, states = [], 0, iter(state)
        for group, rule, held in zip(self._optimizer.param_groups, self._rules, self._held, strict=True):
            of_group = numbers[start : start + len(rule.numbers(group, 1)) + 1]
            start += len(of_group)
            for place in held:
                *settings, decay = of_group.unbind()
                gradient = -gradients[place] if group["maximize"] else gradients[place]
                # A decay of 0 is left out: inductor would have the matmul add it, at the cost of a copy.
                if rule.adds_decay and group["weight_decay"]:
                    gradient = gradient + decay * parameters[place]
                moved.append(rule.move(parameters[place], gradient, *next(states), *settings))
        return moved

    def advance(self) -> None:
        """Count a step that was taken."""
        self._steps = [steps + 1 for steps in self._steps]

    def forget(self) -> None:
        """Take back the state that was made for steps that shall not be taken: SGD's first step asks for it."""
        for state, key in self._made:
            del state[key]

    def write_steps(self) -> None:
        """Tell the optimizer how many steps were taken."""
        for rule, held, steps in zip(self._rules, self._held, self._steps, strict=True):
            for p in held.values() if rule.counts_steps else ():
                self._optimizer.state[p]["step"].fill_(steps)
        # A schedule asks whether the optimizer has stepped before it, and warns.
        self._optimizer._opt_called = True  # type: ignore[attr-defined]

    def _rule(self, group: Group) -> Rule:
        refused = [setting for setting in UNSUPPORTED if group.get(setting)]
        if refused:
            raise NotCompilable(f"{type(self._optimizer).__name__} has {refused[0]}=True")
        if group.get("momentum"):
            return SGD_WITH_MOMENTUM
        return RULES[AdamW if group.get("decoupled_weight_decay") else type(self._optimizer)]

    def _steps_taken(self, group: Group, rule: Rule, held: Mapping[int, Tensor]) -> int:
        """Make the state that is missing, and return how many steps a group has taken."""
        taken = set()
        for p in held.values():
            state = self._optimizer.state[p]
            missing = [key for key in rule.state if state.get(key) is None]
            self._made += [(state, key) for key in missing]
            state |= {key: torch.zeros_like(p, memory_format=torch.preserve_format) for key in missing}
            if rule.counts_steps:
                if "step" not in state:
                    beside = p.device if group.get("fused") or group.get("capturable") else torch.device("cpu")
                    self._made.append((state, "step"))
                    state["step"] = torch.zeros((), dtype=torch.float32, device=beside)
                taken.add(int(state["step"]))
            else:
                taken.add(0 if missing else 1)
        if len(taken) > 1:
            raise NotCompilable(f"{type(self._optimizer).__name__} has taken more steps with some parameters")
        return taken.pop() if taken else 0


def _fixed_settings(optimizer: Optimizer) -> list[tuple[Any, ...]]:
    """Return what a graph takes for granted: all but numbers on a schedule."""
    return [tuple(bool(group.get(name)) for name in FIXED) for group in optimizer.param_groups]

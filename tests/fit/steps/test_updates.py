"""The arithmetic of an update, beside torch's own optimizers on the same gradients."""

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.optim import SGD, Adam, Adamax, AdamW, NAdam
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.optimizer import register_optimizer_step_post_hook

from pyro_vae.fit.steps.updates import Update
from pyro_vae.graphs.inductor import NotCompilable

STEPS = 200


def parameters(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = [(5, 4), (4,), (1, 3, 2)]
    return [torch.randn(s, generator=generator, dtype=dtype).requires_grad_() for s in shapes]


def gradients(step: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Of all sizes, some rows zero for long, as of pixels that are seldom on."""
    generator = torch.Generator().manual_seed(step)
    found = [
        torch.randn(p.shape, generator=generator, dtype=dtype) * 10.0 ** (i - 1) for i, p in enumerate(parameters())
    ]
    found[0][2] = 0 if step % 50 else 1e-6
    return found


def step_by_torch(optimizer: torch.optim.Optimizer, held: list[Tensor], step: int) -> None:
    for p, g in zip(held, gradients(step, held[0].dtype), strict=True):
        p.grad = g
    optimizer.step()


def step_by_us(update: Update, held: list[Tensor], step: int) -> None:
    with torch.no_grad():
        state = update.tensors
        moved = update(held, gradients(step, held[0].dtype), state, update.numbers())
        for place, own, values in zip(update.places, state, moved, strict=True):
            for tensor, value in zip([held[place], *own], values, strict=True):
                tensor.copy_(value)
    update.advance()


OPTIMIZERS = {
    "adam": partial(Adam, lr=1e-2),
    "adam, fused": partial(Adam, lr=1e-2, fused=True),
    "adam, decayed, other betas and eps": partial(Adam, lr=1e-2, weight_decay=0.1, betas=(0.5, 0.99), eps=1e-3),
    "adam, maximizing": partial(Adam, lr=1e-2, maximize=True),
    "adamw": partial(AdamW, lr=1e-2, weight_decay=0.1),
    "adamax": partial(Adamax, lr=1e-2, weight_decay=0.01),
    "sgd": partial(SGD, lr=1e-2, weight_decay=0.1),
    "sgd, momentum": partial(SGD, lr=1e-2, momentum=0.9),
    "sgd, dampened momentum": partial(SGD, lr=1e-2, momentum=0.9, dampening=0.3, weight_decay=0.1),
    "sgd, nesterov": partial(SGD, lr=1e-2, momentum=0.9, nesterov=True),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_hundred_steps_are_those_of_torch(make, dtype):
    theirs, ours = parameters(dtype), parameters(dtype)
    reference, optimizer = make(theirs), make(ours)
    update = Update(optimizer, ours)
    for step in range(STEPS):
        step_by_torch(reference, theirs, step)
        step_by_us(update, ours, step)
    for p, q, start in zip(ours, theirs, parameters(dtype), strict=True):
        assert (q - start).abs().max() > 0.01, "they went nowhere"
        # One rounding a step at most, of numbers as large as the largest.
        assert (p - q).abs().max() < STEPS * torch.finfo(dtype).eps * max(1.0, q.abs().max().item())


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_torch_goes_on_where_an_update_stopped_and_the_other_way_round(make):
    theirs, ours = parameters(), parameters()
    reference, optimizer = make(theirs), make(ours)
    for step in range(30):
        step_by_torch(reference, theirs, step)
    for start, by_us in ((0, False), (10, True), (20, False)):
        update = Update(optimizer, ours)
        if not by_us:
            update.forget()
        for step in range(start, start + 10):
            step_by_us(update, ours, step) if by_us else step_by_torch(optimizer, ours, step)
        if by_us:
            update.write_steps()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_a_schedule_of_rate_and_betas_is_followed():
    theirs, ours = parameters(), parameters()
    ends = []
    for held, by_us in ((theirs, False), (ours, True)):
        optimizer = Adam(held, lr=1e-2)
        schedule = OneCycleLR(optimizer, max_lr=0.1, total_steps=STEPS)
        update = Update(optimizer, held) if by_us else None
        for step in range(STEPS - 1):
            if update is None:
                step_by_torch(optimizer, held, step)
            else:
                step_by_us(update, held, step)
                update.write_steps()
            schedule.step()
        ends.append(held)
    for p, q in zip(*ends, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


def test_groups_keep_their_own_settings_and_others_are_left_alone():
    theirs, ours = parameters(), parameters()
    for held, by_us in ((theirs, False), (ours, True)):
        optimizer = SGD([{"params": held[:1], "lr": 0.1}, {"params": held[1:2], "momentum": 0.5}], lr=0.01)
        update = Update(optimizer, held)
        assert update.places == [0, 1]
        for step in range(20):
            step_by_us(update, held, step) if by_us else step_by_torch(optimizer, held, step)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q)
    assert torch.equal(ours[2], parameters()[2])


def test_what_a_graph_takes_for_granted_is_noticed_when_it_changes():
    optimizer = SGD(held := parameters(), lr=0.1, momentum=0.9)
    update = Update(optimizer, held)
    optimizer.param_groups[0].update(lr=0.2, momentum=0.5)
    assert update.is_current
    for name, value in (("maximize", True), ("weight_decay", 0.1)):
        before = optimizer.param_groups[0][name]
        optimizer.param_groups[0][name] = value
        assert not update.is_current
        optimizer.param_groups[0][name] = before
        assert update.is_current


def hooked(held: list[Tensor]) -> Adam:
    optimizer = Adam(held)
    optimizer.register_step_post_hook(lambda *_: None)
    return optimizer


def uneven(held: list[Tensor]) -> Adam:
    optimizer = Adam(held)
    held[0].grad = torch.ones_like(held[0])
    optimizer.step()
    return optimizer


def test_low_precision_is_for_parameters_alone():
    """In bfloat16 a beta of 0.999 is 1."""
    held = [torch.ones(3, dtype=torch.bfloat16, requires_grad=True), torch.ones(3, requires_grad=True)]
    _, _, _, beta2, *_ = Update(Adam(held), held).numbers().tolist()
    assert beta2 == pytest.approx(0.999, abs=1e-7)


def test_double_precision_anywhere_is_kept():
    held = [torch.ones(3, requires_grad=True), torch.ones(3, dtype=torch.float64, requires_grad=True)]
    _, _, _, beta2, *_ = Update(Adam(held), held).numbers().tolist()
    assert beta2 == 0.999


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (NAdam, "NAdam is none of Adam, AdamW"),
        (partial(Adam, amsgrad=True), "Adam has amsgrad=True"),
        (hooked, "Adam has hooks"),
        (uneven, "Adam has taken more steps"),
    ],
)
def test_another_update_is_refused(make, message):
    held = parameters()
    with pytest.raises(NotCompilable, match=f"^{message}"):
        Update(make(held), held)


def test_a_refused_optimizer_is_left_as_it_was():
    held = parameters()
    optimizer = SGD(held, lr=1e-2, momentum=0.9, dampening=0.5)
    held[0].grad = torch.ones_like(held[0])
    optimizer.step()
    with pytest.raises(NotCompilable, match=r"^SGD has taken more steps"):
        Update(optimizer, held)
    assert [bool(optimizer.state[p]) for p in held] == [True, False, False]


def test_a_hook_around_the_steps_of_all_optimizers_is_seen():
    handle = register_optimizer_step_post_hook(lambda *_: None)
    try:
        with pytest.raises(NotCompilable, match=r"^Adam has hooks"):
            Update(Adam(held := parameters()), held)
    finally:
        handle.remove()

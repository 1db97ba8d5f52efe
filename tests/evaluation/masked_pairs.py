"""Linear Gaussian pairs whose latent sites are masked in every way, with the evidence of what is left."""

import torch
from pyro import distributions as dist
from pyro import plate, poutine, sample
from torch import Tensor

NOISE = 0.6
"""Standard deviation of x given z."""


def loadings(rows: int, columns: int) -> Tensor:
    return torch.linspace(-1.0, 1.5, rows * columns).double().reshape(columns, rows).T.contiguous()


class ByDatum:
    """x = A z + m b log w + noise; the positive w is there for the data with m alone, by ``poutine.mask``."""

    sites = ("z", "w")

    def __init__(self, counts: tuple[bool, ...] = (True, False, True, False, False)) -> None:
        self.counts = torch.tensor(counts)
        self.direction = torch.tensor([0.7, -0.4, 0.9]).double()

    def model(self, x: Tensor, counts: Tensor) -> None:
        with plate("data", len(x), dim=-1):
            z = sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            with poutine.mask(mask=counts):
                w = sample("w", dist.LogNormal(x.new_zeros(()), 1.0))
            log_w = torch.where(counts, w.log(), 0.0).unsqueeze(-1)
            mean = z @ loadings(3, 2).T + log_w * self.direction
            sample("x", dist.Normal(mean, NOISE).to_event(1), obs=x)

    def guide(self, x: Tensor, counts: Tensor) -> None:
        with plate("data", len(x), dim=-1):
            with poutine.mask(mask=counts):
                sample("w", dist.LogNormal(0.3 * x[:, 0] - 1, 0.8))
            sample("z", dist.Normal(0.3 * x[:, :2], 0.8).to_event(1))

    def args(self) -> tuple[Tensor, Tensor]:
        return torch.randn(len(self.counts), 3).double(), self.counts

    def evidence(self, x: Tensor, counts: Tensor) -> Tensor:
        shared = loadings(3, 2) @ loadings(3, 2).T + NOISE**2 * torch.eye(3).double()
        extra = counts.double()[:, None, None] * torch.outer(self.direction, self.direction)
        return dist.MultivariateNormal(x.new_zeros(3), shared + extra).log_prob(x)

    def counted(self, counts: Tensor) -> Tensor:
        """Which of (z, w) count, ``(N, 3)``."""
        return torch.cat([torch.ones(len(counts), 2, dtype=torch.bool), counts[:, None]], 1)


class Nowhere(ByDatum):
    """w is masked for all data."""

    def __init__(self) -> None:
        super().__init__((False,) * 5)


class ByElement:
    """x = A (m z) + noise, where ``dist.mask`` takes elements of z's event out."""

    sites = ("z",)

    def model(self, x: Tensor, counts: Tensor) -> None:
        with plate("data", len(x), dim=-1):
            z = sample("z", dist.Normal(x.new_zeros(x.shape), 1.0).mask(counts).to_event(1))
            mean = torch.where(counts, z, 0.0) @ loadings(3, 3).T
            sample("x", dist.Normal(mean, NOISE).to_event(1), obs=x)

    def guide(self, x: Tensor, counts: Tensor) -> None:
        with plate("data", len(x), dim=-1):
            sample("z", dist.Normal(0.3 * x, 0.8).mask(counts).to_event(1))

    def args(self) -> tuple[Tensor, Tensor]:
        counts = torch.tensor([[1, 1, 1], [0, 1, 1], [1, 0, 0], [0, 0, 1], [0, 0, 0]]).bool()
        return torch.randn(5, 3).double(), counts

    def evidence(self, x: Tensor, counts: Tensor) -> Tensor:
        left = counts.double().unsqueeze(1) * loadings(3, 3)
        return dist.MultivariateNormal(x.new_zeros(3), left @ left.mT + NOISE**2 * torch.eye(3).double()).log_prob(x)

    def counted(self, counts: Tensor) -> Tensor:
        return counts


class Padded:
    """Sequences z_t = 0.8 z_(t-1) + noise seen through x_t, of several lengths, padded; a site for each time step."""

    STEPS = 4
    sites = tuple(f"z_{t}" for t in range(STEPS))

    def model(self, x: Tensor, lengths: Tensor) -> None:
        with plate("data", len(x), dim=-1):
            z, path = x.new_zeros(len(x)), []
            for t in range(self.STEPS):
                with poutine.mask(mask=t < lengths):
                    z = sample(f"z_{t}", dist.Normal(0.8 * z, 1.0))
                path.append(z)
            counts = torch.arange(self.STEPS) < lengths.unsqueeze(-1)
            sample("x", dist.Normal(torch.stack(path, -1), NOISE).mask(counts).to_event(1), obs=x)

    def guide(self, x: Tensor, lengths: Tensor) -> None:
        with plate("data", len(x), dim=-1):
            z = x.new_zeros(len(x))
            for t in range(self.STEPS):
                z = sample(f"z_{t}", dist.Normal(0.2 * z + 0.7 * x[:, t], 0.6).mask(t < lengths))

    def args(self) -> tuple[Tensor, Tensor]:
        return torch.randn(5, self.STEPS).double(), torch.tensor([4, 1, 2, 3, 4])

    def evidence(self, x: Tensor, lengths: Tensor) -> Tensor:
        times = torch.arange(self.STEPS).double()
        propagate = torch.where(times[:, None] >= times, 0.8 ** (times[:, None] - times).clamp(min=0), 0.0).double()
        covariance = propagate @ propagate.T + NOISE**2 * torch.eye(self.STEPS).double()
        found = [
            dist.MultivariateNormal(x.new_zeros(n), covariance[:n, :n]).log_prob(row[:n])
            for row, n in zip(x, lengths.tolist(), strict=True)
        ]
        return torch.stack(found)

    def counted(self, lengths: Tensor) -> Tensor:
        return torch.arange(self.STEPS) < lengths.unsqueeze(-1)


class Missing:
    """y = a z + noise with elements missing (``obs_mask``), which are latent, and x = y + noise sees all of them."""

    sites = ("z", "y_unobserved")

    def model(self, y: Tensor, seen: Tensor) -> None:
        with plate("data", len(y), dim=-2):
            z = sample("z", dist.Normal(y.new_zeros(len(y), 1), 1.0))
            with plate("features", 2, dim=-1):
                full = sample("y", dist.Normal(z, NOISE), obs=y[:, :2], obs_mask=seen)
                sample("x", dist.Normal(full, 1.0), obs=y[:, 2:])

    def guide(self, y: Tensor, seen: Tensor) -> None:
        with plate("data", len(y), dim=-2):
            sample("z", dist.Normal(0.4 * y.mean(-1, keepdim=True), 0.7))
            with plate("features", 2, dim=-1), poutine.mask(mask=~seen):
                sample("y_unobserved", dist.Normal(0.4 * y[:, 2:], 0.8))

    def args(self) -> tuple[Tensor, Tensor]:
        return torch.randn(4, 4).double(), torch.tensor([[1, 1], [1, 0], [0, 1], [0, 0]]).bool()

    def evidence(self, y: Tensor, seen: Tensor) -> Tensor:
        ones, eye = torch.ones(2, 2).double(), torch.eye(2).double()
        of_y = ones + NOISE**2 * eye
        joint = torch.cat([torch.cat([of_y, of_y], 1), torch.cat([of_y, of_y + eye], 1)], 0)
        found = []
        for row, here in zip(y, seen, strict=True):
            kept = torch.cat([here, torch.ones(2, dtype=torch.bool)])
            found.append(
                dist.MultivariateNormal(y.new_zeros(int(kept.sum())), joint[kept][:, kept]).log_prob(row[kept])
            )
        return torch.stack(found)

    def counted(self, seen: Tensor) -> Tensor:
        return torch.cat([torch.ones(len(seen), 1, dtype=torch.bool), ~seen], 1)


PAIRS = {found.__name__: found for found in (ByDatum, Nowhere, ByElement, Padded, Missing)}

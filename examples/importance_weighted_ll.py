"""How the importance-weighted log-likelihood changes with K, and when it can be trusted.

Loads a run folder (``--run``, of svi_mnist.py or of your own fit), or trains a small VAE first. The table has a row for
each K: the bound, its errors, how much it rose, and for how many images the Pareto k-hat says that it is not
dependable; the last row chooses a K for each image. The figure shows the bound against K, and the k-hats.
"""

import argparse
import json
import sys
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure

import pyro_vae
from pyro_vae.cli.scripts import add_out, choose_out, run_script
from pyro_vae.cli.usage import spelled
from pyro_vae.evaluation import LogLikelihood
from pyro_vae.evaluation.evidence.pareto import MIN_SAMPLES
from pyro_vae.fit import EPOCHS, LEARNING_RATE
from pyro_vae.fit.same_data import require_same_data
from pyro_vae.parts import make_pair, part_names
from pyro_vae.runtime.files import write_bytes


def parse_args() -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(
        description="The importance-weighted log-likelihood against K, with its errors and k-hats.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--run", type=Path, help="a run folder to evaluate; without one a VAE is trained on --data")
    add("--root", help="folder of the data sets (else $PYRO_VAE_DATA, else the user's cache folder)")
    add("--data", default="mnist-5k", help="a data set's name, to train on")
    add("--guide", default="mean_field", help=f"of {', '.join(part_names('guide'))}, to train")
    add("--network", default="mlp", help=f"of encoder and decoder, {', '.join(part_names('network'))}, to train")
    add("--latent_dim", type=int, default=2, help="dimension of z, to train")
    add("--epochs", type=int, default=EPOCHS, help="passes over the training images")
    add("--num_samples", type=int, nargs="+", default=[1, 10, 100, 1000, 5000], help="the K to compare")
    add("--target_se", type=float, default=0.1, help="Monte Carlo s.e. to bring each image below, in nats")
    add("--num_test", type=int, default=500, help="test images to evaluate")
    add("--seed", type=int, default=0, help="of parameters, data order and noise")
    add_out(parser, "importance_weighted_ll", "the table and the figure", resume=False)
    add("--quiet", action="store_true", help="no progress bars")
    add("--smoke", action="store_true", help="a run of seconds, to see that everything works")
    args = parser.parse_args(spelled(sys.argv[1:]))
    if args.smoke:
        args.epochs, args.num_test, args.num_samples = 1, 40, [1, 10, 100, 500]
    return args


def main() -> None:
    """Load or train, evaluate at each K, print, draw."""
    args = parse_args()
    args.out = choose_out(args, "importance_weighted_ll")
    args.out.mkdir(parents=True, exist_ok=True)
    progress = False if args.quiet else None
    run, data = load(args) if args.run else train(args)
    test = data.test[: args.num_test]
    print(f"{run}\n{data}\n{len(test)} test images, nats per image. In brackets the Monte Carlo s.e. of the bound,\n"
          "and for the rise over the row before the paired s.e. over images.\n")  # fmt: skip
    print(f"{'K':>6s} {'log p(x) >=':>17s} {'rise':>15s} {'k-hat too high':>15s} {'median ESS':>11s}", flush=True)
    evaluate = partial(pyro_vae.log_likelihood, run.model, run.guide, test, progress=progress)
    rows: dict[str, LogLikelihood] = {}
    for k in sorted(args.num_samples):
        before = list(rows.values())[-1:]
        # Seeds of their own: a rise is then between independent estimates.
        rows[str(k)] = evaluate(k, seed=args.seed + k)
        print(describe(k, rows[str(k)], *before), flush=True)
    chosen = evaluate(max(args.num_samples), target_se=args.target_se, seed=args.seed)
    print(f"\nA K for each image, by target_se={args.target_se:g}:\n{chosen}")
    table = {"data": run.data, "K": {k: row.summary() for k, row in rows.items()}, "target": chosen.summary()}
    write_bytes(args.out / "table.json", f"{json.dumps(table, indent=2)}\n".encode())
    draw(rows, chosen).savefig(args.out / "bound_against_k.png")
    print(f"\nTable and figure are in {args.out}.")


def load(args: argparse.Namespace) -> tuple[pyro_vae.Run, pyro_vae.data.ImageData]:
    """Load a run, and the data that it was fitted to."""
    run = pyro_vae.load_run(args.run)
    names = ("binarization", "seed", "valid_size")
    options = {name: run.data[name] for name in names if run.data.get(name) is not None}
    data = pyro_vae.load_data(run.data["name"], args.root, **options)
    require_same_data(run.data, data, args.run)
    return run, data


def train(args: argparse.Namespace) -> tuple[pyro_vae.Run, pyro_vae.data.ImageData]:
    """Fit a small VAE."""
    data = pyro_vae.load_data(args.data, args.root, seed=args.seed)
    torch.manual_seed(args.seed)
    inputs = partial(data.observe, data.train)
    model, guide = make_pair(
        data.x_shape, args.latent_dim, (200, 200), guide=args.guide, network=args.network, data=inputs
    )
    model.likelihood.initialize_bias(data.train_mean())
    adam = partial(torch.optim.Adam, lr=LEARNING_RATE, fused=True)
    cosine = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=args.epochs, eta_min=0.02 * LEARNING_RATE)
    options = {"epochs": args.epochs, "seed": args.seed, "progress": False if args.quiet else None}
    return pyro_vae.fit(model, guide, data, optimizer=adam, scheduler=cosine, **options), data


def describe(k: int, found: LogLikelihood, before: LogLikelihood | None = None) -> str:
    """Return one line of the table."""
    bound, rise, khat = f"{found.mean:.2f}", "", "too few"
    if k > 1:
        bound += f" ({found.standard_error:.2g})"
    if before is not None:
        step = found.per_datum - before.per_datum
        rise = f"{step.mean():.2f} ({step.std() / len(step) ** 0.5:.2g})"
    if found.num_samples >= MIN_SAMPLES:
        # With those that have none.
        khat = f"{100 * found.flagged.double().mean():.1f} %"
    return f"{k:6d} {bound:>17s} {rise:>15s} {khat:>15s} {found.ess.median():11.1f}"


def draw(rows: dict[str, LogLikelihood], chosen: LogLikelihood) -> Figure:
    """Draw the bound against K, the k-hats at the largest K, and the K that each image was given."""
    figure = Figure(figsize=(12, 3.6), layout="constrained", dpi=150)
    bounds, khats, counts = figure.subplots(1, 3)
    last = list(rows.values())[-1]
    sizes, means, errors = ([pick(row) for row in rows.values()] for pick in (
        lambda row: row.num_samples, lambda row: row.mean, lambda row: 2 * row.standard_error))  # fmt: skip
    bounds.errorbar(sizes, means, errors, marker="o", capsize=3, label="fixed K")
    drawn = chosen.samples_per_datum.double().mean().item() + chosen.num_deciding
    bounds.errorbar(drawn, chosen.mean, 2 * chosen.standard_error, marker="s", capsize=3, label="a K for each image")
    bounds.set(xscale="log", xlabel="samples an image", ylabel="nats", title="log p(x) from below, 2 Monte Carlo s.e.")
    bounds.legend()
    finite = last.pareto_k[last.pareto_k.isfinite()]
    khats.hist(finite.numpy(), bins=30, color="C0")
    khats.axvline(last.khat_threshold, color="C3", label=f"threshold {last.khat_threshold:.2f}")
    khats.set(xlabel="Pareto k-hat", ylabel="images", title=f"k-hat at K = {last.num_samples}")
    khats.legend()
    counts.hist(chosen.samples_per_datum.numpy(), bins=30, color="C1")
    counts.set(xlabel="K", ylabel="images", title=f"K chosen for a target s.e. of {chosen.target_se:g}")
    return figure


if __name__ == "__main__":
    run_script(main)

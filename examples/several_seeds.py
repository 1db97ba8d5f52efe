"""Train the same model from several seeds at once, one process a core with one thread each, and say how seeds differ.

A small batch does not keep two threads busy: several one-thread processes then take more steps a second in all than
one process with every core (python -m benchmarks.seeds measures it). A seed's numbers are, bit for bit, those that it
has alone with as many threads: a thread count may change rounding, other processes never. All seeds are measured on
the same test images. Bars of several processes would garble each other: a line is printed as each seed ends, and
metrics.csv in its run folder gains a row an epoch. A seed that fails is named, and the others go on.
"""

import argparse
import json
import os
import threading
import time
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from statistics import mean, stdev

import torch
from joblib import Parallel, cpu_count, delayed

import pyro_vae
from pyro_vae.parts import make_objective, make_pair, part_names


def parse_args() -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(
        description="Train one model from several seeds at once; report mean and standard deviation over seeds.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=[0, 1, 2, 3], help="of initial parameters, data order and noise")
    add("--jobs", type=int, default=cpu_count(), help="processes; jobs x threads should be the number of cores")
    add("--threads", type=int, default=1, help="of each process")
    add("--data", default="mnist-5k", help="a data set's name")
    for kind, default in {"guide": "mean_field", "prior": "standard_normal", "objective": "trace_elbo"}.items():
        add(f"--{kind}", default=default, help=f"{', '.join(part_names(kind))}, or 'NAME(option=value)'")
    add("--latent-dim", type=int, default=50, help="dimension of z")
    add("--hidden-dims", type=int, nargs="+", default=[200, 200], help="hidden layers of encoder and decoder")
    add("--epochs", type=int, default=40, help="passes over the training images")
    add("--batch-size", type=int, default=20, help="images a step")
    add("--lr", type=float, default=1e-3, help="Adam's learning rate at the start")
    add("--num-samples", type=int, default=500, help="K, importance samples an image")
    add("--out", type=Path, default=Path("runs/several_seeds"), help="folder for the run folders and the table")
    add("--resume", action="store_true", help="go on with the runs in --out")
    add("--smoke", action="store_true", help="a run of seconds, to see that everything works")
    args = parser.parse_args()
    args.seeds = list(dict.fromkeys(args.seeds))
    if args.smoke:
        args.epochs, args.num_samples = 1, 50
    return args


def main() -> None:
    """Run all seeds, print each as it ends, then what they say together."""
    args = parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    # Loaded here first: data that must be fetched are fetched once.
    data = pyro_vae.load_data(args.data, seed=0)
    print(f"{data}\n{len(args.seeds)} seeds, {args.jobs} at a time with threads={args.threads} each; nats per image, "
          "in brackets the Monte Carlo s.e.\n", flush=True)  # fmt: skip
    rows: dict[int, dict] = {}
    try:
        run_seeds(args, args.seeds, rows)
    except BrokenProcessPool:
        print("a process was killed, perhaps for want of memory: the seeds left go on one at a time", flush=True)
        args.resume = True
        for seed in [seed for seed in args.seeds if seed not in rows]:
            try:
                run_seeds(args, [seed], rows)
            except BrokenProcessPool:
                rows[seed] = {"error": "its process was killed: out of memory, or a crash"}
    failed = [f"seed {seed} failed: {row['error']}" for seed, row in rows.items() if "error" in row]
    over_seeds = {}
    for key in ("elbo", "log_likelihood"):
        values = [row[key][0] for row in rows.values() if key in row]
        over_seeds[key] = {"mean": mean(values), "sd": stdev(values)} if len(values) > 1 else None
    if over_seeds["elbo"]:
        elbo, evidence = (f"{found['mean']:.2f} (sd {found['sd']:.2g})" for found in over_seeds.values())
        print(f"\nmean and standard deviation over seeds: ELBO {elbo}, log p(x) >= {evidence}")
    table = {"data": data.describe(), "over_seeds": over_seeds, "seeds": {seed: rows[seed] for seed in args.seeds}}
    (args.out / "table.json").write_text(json.dumps(table, indent=2) + "\n")
    print(f"Run folders and table are in {args.out}.")
    if failed:
        raise SystemExit("\n".join(failed))


def run_seeds(args: argparse.Namespace, seeds: list[int], rows: dict[int, dict]) -> None:
    """Run seeds in processes; print and keep the row of each as it ends.

    Raises:
        BrokenProcessPool: a process was killed, and the others with it.
    """
    # In a pool of one, joblib would run the seed in this process.
    jobs = args.jobs if args.jobs == 1 else max(2, min(args.jobs, len(seeds)))
    pool = Parallel(jobs, backend="loky", batch_size=1, return_as="generator_unordered")
    for seed, row in pool(delayed(run_seed)(args, seed, os.getpid()) for seed in seeds):
        rows[seed] = row
        if "error" not in row:
            elbo, evidence = (f"{row[key][0]:.2f} ({row[key][1]:.2g})" for key in ("elbo", "log_likelihood"))
            print(f"seed {seed}: ELBO {elbo}, log p(x) >= {evidence}, {row['seconds']:.0f} s of training", flush=True)


def run_seed(args: argparse.Namespace, seed: int, parent: int) -> tuple[int, dict]:
    """Train and evaluate one seed; an error becomes its row, so that it does not end the others."""
    if os.getpid() != parent:
        threading.Thread(target=leave_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(args.threads)
    try:
        return seed, fit_and_evaluate(args, seed)
    except Exception as error:
        return seed, {"error": f"{type(error).__name__}: {error}"}


def leave_with(parent: int) -> None:
    """End this process soon after its parent: left behind, it would write into a folder that is being resumed."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def fit_and_evaluate(args: argparse.Namespace, seed: int) -> dict:
    """Return one row of the table; the data's own seed, of test images that are binarized once, is not the run's."""
    data = pyro_vae.load_data(args.data, seed=0)
    torch.manual_seed(seed)
    parts = {"guide": args.guide, "prior": args.prior, "data": partial(data.observe, data.train)}
    model, guide = make_pair(data.x_shape, args.latent_dim, args.hidden_dims, **parts)
    model.likelihood.initialize_bias(data.train_mean())
    optimizer = partial(torch.optim.Adam, lr=args.lr, fused=True)
    run = pyro_vae.fit(
        model, guide, data, objective=make_objective(args.objective), optimizer=optimizer, epochs=args.epochs,
        batch_size=args.batch_size, seed=seed, out=args.out / f"seed_{seed}", resume=args.resume, progress=False,
    )  # fmt: skip
    terms = pyro_vae.elbo_terms(model, guide, data.test, seed=seed, progress=False)
    evidence = pyro_vae.log_likelihood(model, guide, data.test, args.num_samples, seed=seed, progress=False)
    return {
        "elbo": [terms.mean, terms.standard_error],
        "log_likelihood": [evidence.mean, evidence.standard_error],
        "seconds": sum(epoch["seconds"] for epoch in run.history),
    }


if __name__ == "__main__":
    main()

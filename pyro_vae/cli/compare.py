"""`pyro-vae compare`: compute those cells of a grid that are not computed yet."""

from collections.abc import Sequence

from pyro_vae.cli.output import Output
from pyro_vae.cli.report import add_tables, failures, write_reports
from pyro_vae.cli.runs import add_trust
from pyro_vae.cli.signature import options_of
from pyro_vae.cli.usage import Parser, a_path
from pyro_vae.comparison import compare
from pyro_vae.errors import CheckpointError


def run(argv: Sequence[str], output: Output) -> int:
    """Run the command."""
    parser = Parser(
        "compare",
        "GRID.yaml --out DIR [flags]",
        "Fit and measure all cells of a grid, and compare them on the same test images, in nats an image. What is in "
        "DIR already is not computed again, so that the same command goes on where it was stopped. The exit code is 1 "
        "if cells failed.",
    )
    parser.add_argument("grid", type=a_path, metavar="GRID.yaml", help="the cells: `grid`, from a setting to the list "
        "of its values, all combinations; or `cells`, a list; and `common`, settings of all")  # fmt: skip
    group = parser.add_argument_group("where and how")
    group.add_argument("--out", type=a_path, required=True, metavar="DIR", help="folder of the comparison")
    options = options_of(compare, skip=("grid", "out", "progress", "trust"))
    for option in options.values():
        option.add(group)
    add_tables(parser)
    add_trust(parser, "GRID.yaml")
    args = parser.read(argv)
    output.after_interrupt = lambda: "The same command goes on where it stopped."
    settings = {name: value for name, value in vars(args).items() if name in options}
    comparison = compare(args.grid, args.out, progress=output.progress is None, trust=args.trust, **settings)
    try:
        write_reports(comparison, comparison.path, args, output)
    except CheckpointError as error:
        output.complain(f"{error} `pyro-vae report {args.out} --out DIR` writes the report elsewhere.")
    for result, (label, reason) in zip(comparison.failed, failures(comparison).items(), strict=True):
        output.complain(f"{label} failed: {reason} ({result.path})")
    return 1 if comparison.failed else 0

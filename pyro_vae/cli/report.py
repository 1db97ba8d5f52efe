"""`pyro-vae report`: write the report of a comparison, and its tables for a paper."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from pyro_vae.cli.output import Output, where_to
from pyro_vae.cli.runs import add_moved_data, add_trust
from pyro_vae.cli.usage import Parser, a_path
from pyro_vae.comparison import Comparison

TABLES = {"latex": "report.tex", "markdown": "report.md"}
"""By flag: the file into which :func:`pyro_vae.report.page.write_report` writes the main table."""


def run(argv: Sequence[str], output: Output) -> int:
    """Run the command."""
    parser = Parser("report", "DIR [flags]", "Write the report of a comparison again, from what is computed so far.")
    parser.add_argument("comparison", type=a_path, metavar="DIR", help="folder that `compare` wrote")
    add_tables(parser)
    parser.add_argument("--out", type=a_path, metavar="OTHER", default=None, help="folder to write to (default: DIR)")
    add_moved_data(parser)
    add_trust(parser, "DIR")
    args = parser.read(argv)
    comparison = Comparison.read(args.comparison, trust=args.trust)
    out = args.out.resolve() if args.out else comparison.path
    with where_to(out):
        out.mkdir(parents=True, exist_ok=True)
        comparison.write_tables(out)
        write_reports(comparison, out, args, output, args.data)
    return 0


def add_tables(parser: Parser) -> None:
    """Add the flags for tables."""
    group = parser.add_argument_group("tables")
    for name, file in TABLES.items():
        group.add_argument(f"--{name}", action="store_true", help=f"write DIR/{file} as well")


def write_reports(
    comparison: Comparison, out: Path, args: argparse.Namespace, output: Output, data: str | None = None
) -> None:
    """Write the report and the requested tables into a folder, and print the results and where they are written."""
    # Imported here, as it imports matplotlib, which no help text needs.
    from pyro_vae.report.page import write_report

    output.say(str(comparison))
    tables = {name: str(out / file) for name, file in TABLES.items() if name in args}
    report = write_report(comparison, out=out, data=data, **dict.fromkeys(tables, True))
    written = tables | {"report": str(report)}
    for what, path in written.items():
        output.say(f"{what}: {path}")
    # JSON text has neither NumPy's numbers nor NaN.
    table = json.loads(comparison.table.to_json(orient="records"))
    numbers = {"finished": len(comparison.finished), "failed": failures(comparison), "table": table}
    output.give({"path": str(comparison.path), **written, **numbers})


def failures(comparison: Comparison) -> dict[str, str]:
    """Return the first line of each failed cell's error, by the cell's label."""
    return {result.cell.label(comparison.varying): result.error_line for result in comparison.failed}

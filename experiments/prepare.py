"""Builds a data set once, ahead of training: on this machine, or on Beam's workers.

    python -m experiments.prepare --data lits/slices --data-dir DIR
    python -m experiments.prepare --data folder/boxes --data-dir DIR
    python -m experiments.prepare --data lits/slices --data-dir DIR --beam \
        --beam-flag=--runner=DataflowRunner --beam-flag=--project=P --beam-flag=--region=R

Every command that needs a data set builds it by itself; this one only builds.  --beam makes the
same records bit for bit; without --beam-flag its local runner works.  Runners: DirectRunner,
DataflowRunner, FlinkRunner, SparkRunner, with their own flags.  A build that is stopped leaves
nothing half-built.  Costs: reading the raw files, which `experiments.verify` checks before.
"""

from __future__ import annotations

from lesionkeras import cli, cli_data


def main(argv: list[str] | None = None) -> None:
    """Parse, build, say what is there."""
    parser = cli_data.build_data_parser("prepare", __doc__)
    add = parser.add_argument_group("Apache Beam").add_argument
    add("--beam", action="store_true", help="build with Beam")
    add("--beam-flag", metavar="FLAG", action="append", default=[], help="for Beam; repeatable")
    arguments = cli.read_arguments(parser, argv)
    data = cli_data.to_raw_data(arguments)
    from tfds_builders import Beam, open_builder

    beam = Beam(tuple(arguments.beam_flag)) if arguments.beam or arguments.beam_flag else None
    open_builder(data.name, data.config, data.prepared_dir, data.data_dir, beam=beam)


if __name__ == "__main__":
    cli.run_main(main)

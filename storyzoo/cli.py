"""The command line: options, exit codes, and errors as one line. Heavy imports wait for a command.

Exit codes: 0 done; 2 something that the user can put right; 3 under ``--strict``, an answer not to
be trusted; 130 interrupted (what was drawn is kept).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from storyzoo.errors import SettingError, StoryzooError, nearest

Command = Callable[[argparse.Namespace], int]

DONE, BAD_INPUT, INTERRUPTED = 0, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    try:
        code = _run(sys.argv[1:] if argv is None else list(argv))
        sys.stdout.flush()
    except SystemExit as leaving:  # argparse after --help
        return int(leaving.code or 0)
    except BrokenPipeError:
        _forget_output()  # the reader has seen enough, as in `zoo list | head`
        return DONE
    except KeyboardInterrupt:
        return _said("interrupted before anything was drawn", INTERRUPTED)
    except StoryzooError as error:
        return _said(str(error), BAD_INPUT)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        remedy = "free some space, or choose a place that can be read and written"
        return _said(f"{where}{error.strerror or error}: {remedy}", BAD_INPUT)
    return code


def _run(argv: list[str]) -> int:
    parser, commands = build_parser()
    if argv and not argv[0].startswith("-") and argv[0] not in commands:
        raise SettingError(f"no command {argv[0]!r}: {nearest(argv[0], commands)}")
    options, unknown = parser.parse_known_args(argv)
    if unknown:
        known = [name for name in commands[options.command]._option_string_actions if "--" in name]
        raise SettingError(
            f"zoo {options.command} takes no {unknown[0]!r}: "
            f"{nearest(unknown[0].partition('=')[0], known)}"
        )
    run: Command = options.run
    return run(options)


def _said(message: str, code: int) -> int:
    """One line on stderr, then the exit code."""
    sys.stderr.write(f"zoo: {' '.join(message.split())}\n")
    _forget_output()
    return code


def _forget_output() -> None:
    """Spare Python a second failure when it flushes what can't be written."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Parser(argparse.ArgumentParser):
    """Wrong options are one line, as every other error."""

    def error(self, message: str) -> NoReturn:
        raise SettingError(f"{message} (see {self.prog} --help)")


# -- the commands and their options ------------------------------------------------------------


def build_parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser, and those of the commands by name."""
    from storyzoo import __version__

    parser = _Parser(
        prog="zoo",
        description="Generative stories: fit one by EM, SVI or MCMC, and see which to trust.",
        epilog="Example: zoo compare gmm --data iris --methods em,svi,nuts",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"storyzoo {__version__}")
    subparsers = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=_Parser
    )
    commands: dict[str, argparse.ArgumentParser] = {}
    for name, (about, example, add_options, run) in COMMANDS.items():
        command = subparsers.add_parser(
            name,
            help=about,
            description=f"{about[0].upper()}{about[1:]}.",
            epilog=f"Example: {example}",
            allow_abbrev=False,
        )
        add_options(command)
        command.set_defaults(run=run)
        commands[name] = command
    return parser, commands


def _list_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", nargs="?", help="a story or method, to read its card")
    command.add_argument(
        "--data", nargs="?", const="", metavar="NAME", help="data sets instead, or one's card"
    )
    command.add_argument("--json", action="store_true", help="as JSON")


def _fit_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("story", help="a name from `zoo list`")
    _shared_fit_options(command)
    command.add_argument("--method", required=True, metavar="M", help="em, map, laplace, svi, nuts")
    command.add_argument(
        "--holdout", type=float, default=0.0, metavar="F", help="share of the rows to score only"
    )
    command.add_argument(
        "--resume", action="store_true", help="go on with an interrupted run in the same folder"
    )


def _compare_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("story", help="one name or several, with commas between")
    _shared_fit_options(command)
    command.add_argument("--methods", required=True, metavar="M,M", help="with commas between")
    command.add_argument("--jobs", type=int, default=1, metavar="N", help="fits at a time")


def _calibrate_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("story", help="a name from `zoo list`")
    _shared_fit_options(command)
    command.add_argument("--method", required=True, metavar="M", help="laplace, svi, nuts")
    command.add_argument(
        "--simulations", type=int, default=200, metavar="N", help="data sets of known truth"
    )
    command.add_argument("--jobs", type=int, default=1, metavar="N", help="fits at a time")
    command.add_argument(
        "--resume", action="store_true", help="keep the simulations in the folder, add what misses"
    )


def _shared_fit_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--data", required=True, metavar="D", help="a name from `zoo list --data`, or a file"
    )
    command.add_argument("--target", metavar="COL", help="the column that is the outcome")
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="K=V",
        help="a field of the story, any number of times",
    )
    command.add_argument(
        "--with",
        action="append",
        default=[],
        metavar="K=V",
        help="a setting of the method, any number of times",
    )
    command.add_argument("--seed", type=int, default=0, metavar="N")
    command.add_argument("--out", metavar="DIR", help="run folder (default: under runs/)")
    command.add_argument("--device", default="cpu", metavar="DEV", help="cpu, cuda")
    command.add_argument("--json", action="store_true", help="print the summary as JSON")
    command.add_argument(
        "--strict", action="store_true", help="exit with 3 where the answer is not to be trusted"
    )


def _report_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("folders", nargs="+", metavar="DIR", help="run folders")
    command.add_argument("--out", metavar="PAGE", help="default: report.html in the first folder")


def _simulate_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", metavar="DIR", help="a run folder")
    command.add_argument("-n", type=int, default=100, metavar="N", help="how many rows")
    command.add_argument("--seed", type=int, default=0, metavar="N")
    sequences = command.add_argument_group("sequences alone")
    sequences.add_argument("--prefix", metavar="TEXT", help="what each begins with")
    sequences.add_argument("--most", type=int, metavar="N", help="steps after which one is cut")
    sequences.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        metavar="T",
        help="below 1: nearer to the likeliest",
    )
    sequences.add_argument("--top-k", type=int, metavar="K", help="only the K likeliest symbols")
    sequences.add_argument(
        "--nucleus", type=float, metavar="P", help="only the fewest symbols that hold P"
    )
    _csv_option(command)


def _score_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", metavar="DIR", help="a run folder")
    command.add_argument("--data", metavar="D", help="new data; those fitted where left out")
    _csv_option(command)


def _impute_options(command: argparse.ArgumentParser) -> None:
    _score_options(command)
    command.add_argument("--draws", type=int, default=100, metavar="N", help="to average over")
    command.add_argument("--seed", type=int, default=0, metavar="N")
    command.add_argument("--sd", action="store_true", help="a column of sds beside each column")
    command.add_argument(
        "--words", type=int, default=5, metavar="N", help="of each gap in a text, for topics"
    )
    command.epilog = (
        f"{command.epilog}. A gap in a text is written [?], one for each character (or word, or "
        "token of bpe) that is not known; a missing pixel of an image is an empty cell. Each gets "
        "what was drawn most often; with --draws 1 all come from one draw, as they go together."
    )


def _compress_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", metavar="DIR", help="a run folder, of sequences")
    command.add_argument(
        "file", metavar="FILE", help="text, images in bytes, an edge list, or what simulate writes"
    )
    command.add_argument("--out", metavar="FILE", help="default: FILE.zoo")
    command.add_argument(
        "--draws", type=int, default=8, metavar="N", help="of the posterior, foretelling together"
    )


def _decompress_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", metavar="DIR", help="the run folder that compressed it")
    command.add_argument("file", metavar="FILE", help="what zoo compress wrote")
    command.add_argument("--out", metavar="FILE", help="default: FILE without .zoo")


def _csv_option(command: argparse.ArgumentParser) -> None:
    command.add_argument("--out", metavar="FILE", help="write the CSV there instead of to stdout")


def _new_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", help="such as my-story")


def _cache_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--clear", action="store_true", help="remove compiled code; data stay")


def _explain_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("word", help="such as r_hat, k_hat, divergences, elpd_loo")


def _command(module: str, name: str) -> Command:
    """A command that is imported when it runs."""

    def run(options: argparse.Namespace) -> int:
        from importlib import import_module

        code: int = getattr(import_module(module), name)(options)
        return code

    return run


Row = tuple[str, str, Callable[[argparse.ArgumentParser], None], Command]

COMMANDS: dict[str, Row] = {
    "list": (
        "stories, methods and data, and what each is",
        "zoo list gmm",
        _list_options,
        _command("storyzoo.listing", "list_"),
    ),
    "fit": (
        "fit a story to data by a method, and judge the answer",
        "zoo fit gmm --data iris --method em --set n_components=3 --with restarts=20",
        _fit_options,
        _command("storyzoo.commands", "fit"),
    ),
    "compare": (
        "fit by several methods, or several stories, to the same rows",
        "zoo compare gmm --data iris --methods em,nuts --set n_components=2..4 "
        "--with nuts.draws=500",
        _compare_options,
        _command("storyzoo.commands", "compare"),
    ),
    "calibrate": (
        "fit data of known truth, and see whether a method knows what it knows",
        "zoo calibrate eight-schools --data eight-schools --method nuts --simulations 200 "
        "--with draws=250",
        _calibrate_options,
        _command("storyzoo.commands", "calibrate"),
    ),
    "report": (
        "write the page of a run, or one page that compares several",
        "zoo report runs/gmm-iris-em-0 runs/gmm-iris-nuts-0 --out both.html",
        _report_options,
        _command("storyzoo.commands", "report"),
    ),
    "simulate": (
        "draw new rows from a fitted story",
        "zoo simulate runs/gmm-iris-em-0 -n 100 --out new.csv",
        _simulate_options,
        _command("storyzoo.commands", "simulate"),
    ),
    "score": (
        "log density of each row; the lowest are anomalies",
        "zoo score runs/gmm-iris-em-0 --data new.csv",
        _score_options,
        _command("storyzoo.commands", "score"),
    ),
    "impute": (
        "fill in missing values",
        "zoo impute runs/gmm-iris-em-0 --data holes.csv --out filled.csv",
        _impute_options,
        _command("storyzoo.commands", "impute"),
    ),
    "latent": (
        "what is hidden behind each row, such as its component",
        "zoo latent runs/gmm-iris-em-0 --data new.csv",
        _score_options,
        _command("storyzoo.commands", "latent"),
    ),
    "compress": (
        "compress a file without loss, by what a fit foretells",
        "zoo compress runs/book new.txt",
        _compress_options,
        _command("storyzoo.commands", "compress"),
    ),
    "decompress": (
        "give back the file that was compressed by the same fit",
        "zoo decompress runs/book new.txt.zoo",
        _decompress_options,
        _command("storyzoo.commands", "decompress"),
    ),
    "new": (
        "write a story of your own and its test into the current folder",
        "zoo new my-story",
        _new_options,
        _command("storyzoo.scaffold", "new"),
    ),
    "cache": (
        "say where compiled code and fetched data lie, and how much they take",
        "zoo cache --clear",
        _cache_options,
        _command("storyzoo.commands", "cache"),
    ),
    "explain": (
        "what a word in a verdict means",
        "zoo explain r_hat",
        _explain_options,
        _command("storyzoo.listing", "explain"),
    ),
}
"""Command -> what it does, an example, its options, what runs it."""

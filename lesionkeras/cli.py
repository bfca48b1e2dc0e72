"""One command line for every experiment: flags to a recipe, errors to one sentence and exit 2."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from lesionkeras.errors import LesionKerasError, RecipeError, describe_unexpected
from lesionkeras.recipe import digest, find_nearest, flatten, format_value, override, read_recipe

Recipe = TypeVar("Recipe")

EXIT_ERROR = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells count
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE

_ENVIRONMENT = {  # TensorFlow reads these once, when it is imported
    "TF_CPP_MIN_LOG_LEVEL": "2",  # no pages about CUDA on a machine without it
    "TF_ENABLE_ONEDNN_OPTS": "1",  # off by default without AVX-512; saves a fifth of the CPU time
}
# (flag, path in the recipe, what it means); a flag is there where the recipe has its path
_RECIPE_FLAGS = (
    ("--epochs", "train.epochs", "passes over the training images"),
    ("--batch-size", "train.batch_size", "images a step"),
    ("--lr", "optimizer.learning_rate", "learning rate at its peak"),
    ("--image-size", "data.image_size_px", "side of the network's input in pixels"),
    ("--backbone", "model.backbone", "the network's trunk"),
    ("--weights", "model.weights", "none, imagenet, or a .npz file of the backbone's weights"),
    ("--precision", "train.precision", "auto, float32, bfloat16 or float16"),
    ("--seed", "train.seed", "of every random choice"),
)
_DATA_FLAGS = (
    ("--data", "data.name", "data set, or data set/config (deeplesion/liver), '+' between several"),
    ("--split", "data.protocol", "patient, or a paper's own split (paper, p2 ... p5): may leak"),
    ("--held-out", "data.held_out", "patients or volumes that are tested on; none: by the seed"),
    ("--test-sets", "data.test_sets", "data sets that are only tested on, ',' between several"),
    ("--train-split", "data.train_split", "split to train on"),
    ("--validation-split", "data.validation_split", "split to choose and tune on"),
    ("--test-split", "data.test_split", "split that is measured once, at the end"),
)


@dataclass(frozen=True)
class RunOptions:
    """Where a run reads and writes; nothing in here changes what is learnt."""

    experiment: str
    out: Path  # the run directory
    data_dir: Path | None  # raw files of the data set; None where it needs none
    prepared_dir: Path  # prepared data sets, shared between runs
    smoke: bool  # tiny and quick: does everything run through
    debug: bool  # errors with their traceback
    more_data_dirs: tuple[Path, ...] = ()  # of the second data set, the third ...


class Parser(argparse.ArgumentParser):
    """Raises RecipeError where argparse would leave the process."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the command line."""
        raise RecipeError(
            "The command line cannot be read", found=message, next_step="see --help for the flags"
        )


def parse(
    experiment: str,
    recipes: Mapping[str, Recipe],
    doc: str,
    smoke: Mapping[str, Any],
    argv: list[str] | None = None,
) -> tuple[Recipe, RunOptions]:
    """Reads an experiment's command line.

    Args:
        experiment: The experiment's name ("ssd").
        recipes: The recipes that `--recipe` knows; the first is the default.
        doc: The text above the flags in `--help`.
        smoke: Path to value, what `--smoke` changes in the recipe; flags win over it.
        argv: The words after the command; None takes them from the process.

    Returns:
        The recipe, checked, and the run's options.

    Raises:
        RecipeError: Unknown or unreadable flag, recipe, field or value (the nearest is named).
        SystemExit: After `--help`.
    """
    arguments = read_arguments(build_parser(experiment, recipes, doc), argv)
    return to_run(arguments, experiment, recipes, smoke)


def build_parser(command: str, recipes: Mapping[str, Any], doc: str) -> argparse.ArgumentParser:
    """Builds the parser of an experiment's flags; a command may add its own.

    Args:
        command: Module of `experiments` that is run ("ssd").
        recipes: The recipes that `--recipe` knows; the first is the default.
        doc: The text above the flags in `--help`.

    Returns:
        A parser whose values are strings; None where a flag was not given.
    """
    name, values = next(iter(recipes)), flatten(next(iter(recipes.values())))
    parser = make_parser(command, doc, _describe_fields(name, values))
    group = parser.add_argument_group(f"recipe (defaults of '{name}')")
    known = ", ".join(recipes)
    group.add_argument(
        "--recipe", metavar="NAME|FILE", help=f"{known}, or a recipe file (default: {name})"
    )
    _add_flags(group, _RECIPE_FLAGS, values)
    group.add_argument(
        "--set",
        metavar="PATH=VALUE",
        action="append",
        default=[],
        help="any other field, see the end; may be repeated, wins over the flags",
    )
    _add_flags(parser.add_argument_group("data"), _DATA_FLAGS, values)
    _add_run_flags(parser)
    return parser


def add_search_flags(parser: argparse.ArgumentParser, space: Mapping[str, str]) -> None:
    """Adds the flags of a search to those of the experiment that is searched.

    Args:
        parser: From `build_parser`.
        space: The experiment's search space, for the help.
    """
    shown = "; ".join(f"{path}={text}" for path, text in space.items())
    add = parser.add_argument_group("search").add_argument
    add("--experiment", metavar="X", default="ssd", help="what is searched (default: ssd)")
    add("--trials", metavar="N", default="12", help="number of trainings (default: 12)")
    add("--tuner", metavar="X", default="random", help="random (default), hyperband or bayesian")
    add("--space", metavar="PATH=SPACE", action="append", default=[], help=f"adds to {shown}")


def read_arguments(
    parser: argparse.ArgumentParser, argv: list[str] | None = None
) -> argparse.Namespace:
    """Reads the words of a command line with a parser of `build_parser`.

    Args:
        parser: The parser.
        argv: The words after the command; None takes them from the process.

    Returns:
        The arguments, as strings.

    Raises:
        RecipeError: An unknown flag (the nearest is named), or a flag without its value.
        SystemExit: After `--help`.
    """
    arguments, unknown = parser.parse_known_args(argv)
    if not unknown:
        return arguments
    flag = next((word for word in unknown if word.startswith("-")), unknown[0]).split("=")[0]
    known = [name for name in parser._option_string_actions if name.startswith("--")]
    if not flag.startswith("-"):
        raise RecipeError("A word belongs to no flag", found=flag, next_step="see --help")
    nearest = find_nearest(flag, known)
    raise RecipeError("A flag is unknown", found=flag, next_step=f"did you mean {nearest}")


def peek(flag: str, default: str, argv: list[str] | None = None) -> str:
    """Reads one flag's value before the parser that knows all flags can be built.

    Args:
        flag: The flag ("--experiment").
        default: Its value where it was not given.
        argv: The words after the command; None takes them from the process.

    Returns:
        The value.

    Raises:
        RecipeError: The flag stands without its value.
    """
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument(flag, dest="value", default=default)
    return parser.parse_known_args(argv)[0].value


def to_run(
    arguments: argparse.Namespace,
    experiment: str,
    recipes: Mapping[str, Recipe],
    smoke: Mapping[str, Any],
    run_name: str = "",
) -> tuple[Recipe, RunOptions]:
    """Turns arguments into the recipe and the options of a run.

    The order is: the recipe, then `--smoke`, then the flags, then `--set`; the later wins.

    Args:
        arguments: What `read_arguments` gave.
        experiment: The experiment's name ("ssd").
        recipes: The recipes that `--recipe` knows; the first is the default.
        smoke: Path to value, what `--smoke` changes in the recipe.
        run_name: Start of the run directory's default name; "" is the experiment's.

    Returns:
        The recipe, checked, and the run's options.

    Raises:
        RecipeError: Unknown recipe or field, unreadable value, missing weights file.
    """
    recipe = _choose_recipe(arguments.recipe, experiment, recipes)
    changes = {**smoke} if arguments.smoke else {}
    recipe = override(recipe, {**changes, **read_changes(arguments)})
    _check_weights(recipe)
    name = f"{run_name or experiment}-{flatten(recipe).get('name', 'run')}-{digest(recipe)}"
    data_dirs = [Path(each).expanduser() for each in arguments.data_dir or ()]
    options = RunOptions(
        experiment=experiment,
        out=Path(arguments.out).expanduser() if arguments.out else Path("runs") / name,
        data_dir=data_dirs[0] if data_dirs else None,
        more_data_dirs=tuple(data_dirs[1:]),
        prepared_dir=Path(arguments.prepared_dir or get_prepared_dir()).expanduser(),
        smoke=arguments.smoke,
        debug=arguments.debug,
    )
    return recipe, options


def read_changes(arguments: argparse.Namespace) -> dict[str, str]:
    """Lists what the flags of a command line change in the recipe.

    Args:
        arguments: What `read_arguments` gave.

    Returns:
        Path to value, as text.

    Raises:
        RecipeError: A `--set` without "=".
    """
    given = vars(arguments)
    changes = {
        path: given[path]
        for _, path, _ in (*_RECIPE_FLAGS, *_DATA_FLAGS)
        if given.get(path) is not None
    }
    if "data.name" in changes:
        parts = [name.partition("/") for name in changes["data.name"].split("+")]
        for path, place in (("data.name", 0), ("data.config", 2)):
            changes[path] = "+".join(part[place] for part in parts)
    for item in arguments.set:
        path, equals, value = item.partition("=")
        if not equals:
            raise RecipeError("--set cannot be read", found=item, wanted="path.to.field=value")
        changes[path.strip()] = value
    return changes


def parse_count(flag: str, text: str) -> int:
    """Reads a flag that counts something.

    Args:
        flag: The flag, for the error.
        text: What was typed.

    Returns:
        A whole number of 1 or more.

    Raises:
        RecipeError: It is none.

    >>> parse_count("--trials", "12")
    12
    """
    if not text.isdecimal() or int(text) < 1:
        raise RecipeError(
            f"{flag} cannot be read", found=repr(text), wanted="a whole number of 1 or more"
        )
    return int(text)


def run_main(main: Callable[[list[str] | None], None]) -> NoReturn:
    """Runs an experiment's `main` and leaves the process with the right exit code and text.

    A mistake of the user is one sentence on stderr and exit 2; a traceback comes with `--debug`.

    Args:
        main: Takes the words after the command.

    Raises:
        SystemExit: Always.
    """
    debug = "--debug" in sys.argv
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output has left (`| head`); the interpreter must not flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_BROKEN_PIPE)
    except KeyboardInterrupt:
        print("\nStopped; the same command resumes.", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        if debug:
            raise
        is_ours = isinstance(error, LesionKerasError)
        print(error if is_ours else describe_unexpected(error), file=sys.stderr)
        sys.exit(EXIT_USER_ERROR if isinstance(error, LesionKerasError | OSError) else EXIT_ERROR)
    sys.exit(0)


def make_parser(command: str, doc: str, epilog: str = "") -> Parser:
    """Makes a command's parser without flags.

    Args:
        command: Module of `experiments` that is run.
        doc: The text above the flags in `--help`.
        epilog: The text below them.
    """
    return Parser(
        prog=f"python -m experiments.{command}",
        description=doc,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_prepared_dir(parser: argparse._ActionsContainer) -> None:
    """Adds `--prepared-dir`."""
    text = "prepared data sets (default: $LESIONKERAS_CACHE or ~/.cache/lesionkeras/datasets)"
    parser.add_argument("--prepared-dir", metavar="DIR", help=text)


def _add_flags(
    group: argparse._ArgumentGroup, flags: tuple[tuple[str, str, str], ...], values: dict[str, Any]
) -> None:
    for flag, path, meaning in flags:
        if path in values:
            default = format_value(values[path]).replace("%", "%%")  # argparse formats the text
            group.add_argument(flag, metavar="X", dest=path, help=f"{meaning} (default: {default})")


def _add_run_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("run")
    text = "raw files of the data set; of several repeated in their order, '-' where one has none"
    group.add_argument("--data-dir", metavar="DIR", action="append", help=text)
    add_prepared_dir(group)
    text = "run directory; the same command resumes there (default: runs/NAME-RECIPE-DIGEST)"
    group.add_argument("--out", metavar="DIR", help=text)
    text = "tiny, quick, and on the phantom unless --data says other: does all run through"
    group.add_argument("--smoke", action="store_true", help=text)
    group.add_argument("--debug", action="store_true", help="errors with their traceback")


def _describe_fields(name: str, values: Mapping[str, Any]) -> str:
    lines = [f"  {path}={format_value(value)}" for path, value in values.items()]
    return "\n".join([f"fields for --set, with the values of '{name}':", *lines])


def _choose_recipe(name: str | None, experiment: str, recipes: Mapping[str, Recipe]) -> Recipe:
    default = next(iter(recipes.values()))
    if name is None:
        return default
    if name in recipes:
        return recipes[name]
    if name.endswith(".json") or Path(name).exists():
        return read_recipe(Path(name).expanduser(), type(default), experiment)
    raise RecipeError(
        "A recipe is unknown",
        found=name,
        wanted="one of " + ", ".join(recipes) + ", or a .json file",
        next_step=f"did you mean {find_nearest(name, recipes)}",
    )


def _check_weights(recipe: Any) -> None:
    weights = flatten(recipe).get("model.weights", "none")
    if weights not in ("none", "imagenet") and not Path(weights).is_file():
        raise RecipeError(
            "The weights file does not exist", found=weights, wanted="a .npz file, or imagenet"
        )


def get_prepared_dir() -> str:
    """Returns where prepared data lie if no flag says so."""
    return os.environ.get("LESIONKERAS_CACHE") or "~/.cache/lesionkeras/datasets"

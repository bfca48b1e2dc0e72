import os
import subprocess
import sys
from pathlib import Path

import pytest

from lesionkeras import cli
from lesionkeras.config import SSDRecipe
from lesionkeras.errors import DataError, RecipeError
from lesionkeras.recipe import digest, flatten, override, write_recipe

ROOT = Path(__file__).parent.parent
RECIPES = {"default": SSDRecipe(), "paper": override(SSDRecipe(), {"name": "paper"})}
SMOKE = {"train.epochs": 2, "train.batch_size": 4}


def parse(*words):
    return cli.parse("ssd", RECIPES, "What it does.", SMOKE, list(words))


def get_changes(*words):
    default, recipe = flatten(SSDRecipe()), flatten(parse(*words)[0])
    return {path: value for path, value in recipe.items() if value != default[path]}


def test_without_flags_it_is_the_first_recipe(monkeypatch):
    monkeypatch.delenv("LESIONKERAS_CACHE", raising=False)
    recipe, options = parse()
    assert recipe == SSDRecipe()
    assert options == cli.RunOptions(
        experiment="ssd",
        out=Path(f"runs/ssd-default-{digest(recipe)}"),
        data_dir=None,
        prepared_dir=Path.home() / ".cache/lesionkeras/datasets",
        smoke=False,
        debug=False,
    )


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ("--epochs 3", {"train.epochs": 3}),
        ("--epochs=3", {"train.epochs": 3}),
        ("--batch-size 8", {"train.batch_size": 8}),
        ("--lr 2e-4", {"optimizer.learning_rate": 2e-4}),
        ("--image-size 320", {"data.image_size_px": 320}),
        ("--backbone resnet50", {"model.backbone": "resnet50"}),
        ("--weights imagenet", {"model.weights": "imagenet"}),
        ("--precision float16", {"train.precision": "float16"}),
        ("--seed 7", {"train.seed": 7}),
        ("--data deeplesion", {"data.name": "deeplesion"}),
        ("--data deeplesion/liver", {"data.name": "deeplesion", "data.config": "liver"}),
        ("--split paper", {"data.protocol": "paper"}),
        ("--train-split validation", {"data.train_split": "validation"}),
        ("--validation-split train", {"data.validation_split": "train"}),
        ("--test-split all", {"data.test_split": "all"}),
        ("--recipe paper", {"name": "paper"}),
        ("--set data.window_hu=-150,250", {"data.window_hu": (-150.0, 250.0)}),
        ("--set train.seed=4 --set loss.box_weight=2", {"train.seed": 4, "loss.box_weight": 2.0}),
        ("--smoke", {"train.epochs": 2, "train.batch_size": 4}),
        ("--epochs 9 --smoke", {"train.epochs": 9, "train.batch_size": 4}),
        ("--set train.epochs=5 --epochs 9", {"train.epochs": 5}),
        ("--recipe paper --smoke --seed 1", {"name": "paper", "train.seed": 1, **SMOKE}),
    ],
)
def test_each_flag_changes_its_field_and_no_other(words, changes):
    assert get_changes(*words.split()) == changes


def test_run_flags(monkeypatch):
    words = "--out there --data-dir ~/raw --prepared-dir made --smoke --debug"
    options = parse(*words.split())[1]
    assert options == cli.RunOptions(
        "ssd", Path("there"), Path.home() / "raw", Path("made"), smoke=True, debug=True
    )
    monkeypatch.setenv("LESIONKERAS_CACHE", "elsewhere")
    assert parse()[1].prepared_dir == Path("elsewhere")


def test_the_default_directory_follows_the_recipe():
    names = {str(parse(*words.split())[1].out) for words in ("", "--seed 1", "--recipe paper")}
    assert len(names) == 3


def test_a_recipe_file_is_taken_and_flags_win_over_it(tmp_path):
    path = tmp_path / "winner.json"
    write_recipe(path, override(SSDRecipe(), {"train.epochs": 11, "train.seed": 5}), "ssd")
    assert get_changes("--recipe", str(path), "--seed", "6") == {
        "train.epochs": 11,
        "train.seed": 6,
    }


def test_a_weights_file_that_exists_is_taken(tmp_path):
    path = tmp_path / "backbone.npz"
    path.touch()
    assert get_changes("--weights", str(path)) == {"model.weights": str(path)}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--epoch 5", "A flag is unknown: found --epoch; did you mean --epochs."),
        ("--epoch=5", "A flag is unknown: found --epoch; did you mean --epochs."),
        ("--batch 5", "A flag is unknown: found --batch; did you mean --batch-size."),
        ("--learning-rate 1", "A flag is unknown: found --learning-rate; did you mean"),
        ("-x", "A flag is unknown: found -x; did you mean"),
        ("train", "A word belongs to no flag: found train; see --help."),
        (
            "--epochs",
            "The command line cannot be read: found argument --epochs: expected one argument; "
            "see --help for the flags.",
        ),
        ("--epochs five", "train.epochs cannot be read: found 'five', wanted a whole number."),
        ("--epochs 0", "train.epochs is out of range: found 0, wanted a whole number of 1 or"),
        (
            "--backbone resnet43",
            "model.backbone is unknown: found resnet43, wanted one of 'resnet34', 'resnet50'; "
            "did you mean resnet34.",
        ),
        (
            "--set optimizer.learning_rat=1",
            "A recipe field is unknown: found optimizer.learning_rat; "
            "did you mean optimizer.learning_rate.",
        ),
        ("--set epochs", "--set cannot be read: found epochs, wanted path.to.field=value."),
        (
            "--recipe papr",
            "A recipe is unknown: found papr, wanted one of default, paper, or a .json file; "
            "did you mean paper.",
        ),
        ("--recipe no.json", "A recipe file cannot be read in no.json: found No such file"),
        (
            "--weights no.npz",
            "The weights file does not exist: found no.npz, wanted a .npz file, or imagenet.",
        ),
        ("--weights imagnet", "model.weights is unknown: found imagnet, wanted 'none',"),
    ],
)
def test_mistakes_are_answered_in_one_sentence(words, message):
    with pytest.raises(RecipeError) as caught:
        parse(*words.split())
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_help_shows_flags_defaults_and_fields(capsys):
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert caught.value.code == 0
    assert "What it does." in text
    assert "--epochs X passes over the training images (default: 75)" in text
    assert "default, paper, or a recipe file (default: default)" in text
    assert "augment.gamma=0.8,1.25" in text


def test_a_flag_is_there_only_where_the_recipe_has_its_field():
    parser = cli.build_parser("other", {"default": SSDRecipe().train}, "")
    assert "--epochs" not in parser.format_help()
    assert "--set" in parser.format_help()


def test_peek_and_count():
    words = ["--epochs", "3", "--experiment", "unet"]
    assert cli.peek("--experiment", "ssd", words) == "unet"
    assert cli.peek("--experiment", "ssd", ["--experiments", "x"]) == "ssd"
    with pytest.raises(RecipeError, match="expected one argument"):
        cli.peek("--experiment", "ssd", ["--experiment"])
    assert cli.parse_count("--trials", "12") == 12
    for text in ("0", "-1", "x", "1.5"):
        with pytest.raises(RecipeError, match="--trials cannot be read: found"):
            cli.parse_count("--trials", text)


def run_main(main, monkeypatch, words=()):
    monkeypatch.setattr(sys, "argv", ["experiment", *words])
    with pytest.raises(SystemExit) as caught:
        cli.run_main(main)
    return caught.value.code


def raise_error(error):
    def main(argv):
        raise error

    return main


def test_run_main_hands_the_words_on_and_ends_well(monkeypatch):
    seen = []
    assert run_main(seen.append, monkeypatch, ["--epochs", "3"]) == 0
    assert seen == [["--epochs", "3"]]


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (DataError("No data", where="raw"), 2, "No data in raw.\n"),
        (
            FileNotFoundError(2, "No such file or directory", "a.png"),
            2,
            "A file cannot be read or written in a.png: found no such file or directory; see "
            "that it is there, may be used and has room, then repeat the command (--debug shows "
            "where).\n",
        ),
        (
            ValueError("shapes\ndiffer"),
            1,
            "ValueError: shapes; the same command with --debug shows where.\n",
        ),
        (
            AssertionError(),
            1,
            "AssertionError: no text; the same command with --debug shows where.\n",
        ),
        (KeyboardInterrupt(), 130, "\nStopped; the same command resumes.\n"),
    ],
)
def test_errors_are_one_sentence_on_stderr(monkeypatch, capsys, error, code, text):
    assert run_main(raise_error(error), monkeypatch) == code
    captured = capsys.readouterr()
    assert captured.err == text
    assert captured.out == ""


def test_debug_shows_where(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["experiment", "--debug"])
    with pytest.raises(DataError):
        cli.run_main(raise_error(DataError("No data")))


def run_process(code, words="", shell_end=""):
    command = f'"$PYTHON" -c "$CODE" {words} {shell_end}'
    env = {**os.environ, "PYTHON": sys.executable, "CODE": code, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], env=env, capture_output=True, text=True
    )


MAIN = """
from lesionkeras import cli
from lesionkeras.config import SSDRecipe
def main(argv):
    cli.parse("ssd", {"default": SSDRecipe()}, "", {}, argv)
    print("line\\n" * 100000)
cli.run_main(main)
"""


def test_a_reader_that_leaves_causes_no_traceback():
    done = run_process(MAIN, shell_end="| head -1")
    assert done.stdout == "line\n"
    assert done.stderr == ""
    assert done.returncode == 141


def test_a_wrong_flag_ends_the_process_with_2_and_its_name():
    done = run_process(MAIN, "--epoch 3")
    assert done.stderr == "A flag is unknown: found --epoch; did you mean --epochs.\n"
    assert (done.stdout, done.returncode) == ("", 2)


@pytest.mark.parametrize("name", ["ssd", "tune"])
def test_help_is_there_within_a_second(name):
    started_s = os.times().children_user + os.times().children_system
    done = subprocess.run(
        [sys.executable, "-m", f"experiments.{name}", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    cpu_s = os.times().children_user + os.times().children_system - started_s
    assert done.returncode == 0, done.stderr
    assert "--epochs" in done.stdout
    assert cpu_s < 1  # of the processor: the wall's second depends on who else is at work


SEARCHED = "wanted one of baseline_cnn, faster_rcnn, resnet50_unet, retinanet, segnet, ssd, unet"
TUNE_ERRORS = [
    (
        "--experiment sdd",
        f"An experiment is unknown: found sdd, {SEARCHED}; did you mean ssd.\n",
    ),
    (
        "--experiment tune",
        f"experiments.tune trains nothing: found tune, {SEARCHED}; did you mean unet.\n",
    ),
    ("--trial 3", "A flag is unknown: found --trial; did you mean --trials.\n"),
    (
        "--trials many",
        "--trials cannot be read: found 'many', wanted a whole number of 1 or more.\n",
    ),
]


@pytest.mark.parametrize(("words", "message"), TUNE_ERRORS)
def test_mistakes_in_a_search_write_nothing(tmp_path, words, message):
    done = subprocess.run(
        [sys.executable, "-m", "experiments.tune", *words.split(), "--out", str(tmp_path / "out")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.stderr, done.returncode) == (message, 2)
    assert not (tmp_path / "out").exists()

"""start.py: when the environment is made, what then runs, and what errors say to do."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import start

FILES = ("requirements.txt", "setup.py")


@pytest.fixture
def clone(tmp_path):
    for name in (*FILES, "requirements-dev.txt"):
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.fixture
def commands(monkeypatch):
    """Records what would be run; "making" an environment leaves an interpreter there."""
    seen = []

    def run_logged(command, log, label, next_step, descriptors=()):
        seen.append(command)
        if command[1:3] == ["-m", "venv"]:
            python = start.get_python(Path(command[3]))
            python.parent.mkdir(parents=True)
            python.write_text("new")

    monkeypatch.setattr(start, "run_logged", run_logged)
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    return seen


def is_pip(command):
    return command[1:4] == ["-m", "pip", "install"]


def test_first_call_makes_and_installs_second_does_nothing(clone, commands):
    python = start.make_environment(FILES, clone)
    assert python == start.get_python(clone / ".venv")
    assert [is_pip(command) for command in commands] == [False, True]
    pip = commands[1]
    assert pip[0] == str(python)
    assert str(clone / "requirements.txt") in pip
    assert str(clone / "setup.py") not in pip
    assert pip[pip.index("--editable") + 1] == str(clone)
    assert start.make_environment(FILES, clone) == python
    assert len(commands) == 2


def test_bytecode_is_kept_where_python_would_not(clone, commands, monkeypatch):
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    python = start.make_environment(FILES, clone)
    assert commands[2] == [str(python), "-c", start.KEEP_BYTECODE]
    (clone / "toy.py").write_text("")
    keep = start.KEEP_BYTECODE.partition("import tensorflow")[0]
    for code, kept in (("import toy", False), (keep + "import toy", True)):
        subprocess.run([sys.executable, "-c", code], cwd=clone, check=True)
        assert (clone / "__pycache__").is_dir() is kept


@pytest.mark.parametrize("name", FILES)
def test_changed_file_installs_again_into_the_same_environment(clone, commands, name):
    start.make_environment(FILES, clone)
    (clone / name).write_text("other")
    start.make_environment(FILES, clone)
    assert [is_pip(command) for command in commands] == [False, True, True]


def test_test_environment_serves_runs_but_not_the_other_way(clone, commands):
    start.make_environment(FILES, clone)
    start.make_environment((*FILES, "requirements-dev.txt"), clone)
    assert len(commands) == 3
    assert str(clone / "requirements-dev.txt") in commands[-1]
    start.make_environment(FILES, clone)
    assert len(commands) == 3


def test_interrupted_installation_is_made_anew(clone, commands, monkeypatch):
    working = start.run_logged

    def interrupt(command, *args):
        if is_pip(command):
            raise KeyboardInterrupt
        working(command, *args)

    monkeypatch.setattr(start, "run_logged", interrupt)
    with pytest.raises(KeyboardInterrupt):
        start.make_environment(FILES, clone)
    half = clone / ".venv" / "half-written"
    half.touch()
    monkeypatch.setattr(start, "run_logged", working)
    start.make_environment(FILES, clone)
    assert not half.exists()
    assert [is_pip(command) for command in commands] == [False, False, True]


def test_other_python_makes_it_anew_and_moved_folder_installs_again(clone, commands):
    start.make_environment(FILES, clone)
    stamp = clone / ".venv" / start.STAMP
    content = json.loads(stamp.read_text())
    stamp.write_text(json.dumps({**content, "python": "3.99"}))
    start.make_environment(FILES, clone)
    assert [is_pip(command) for command in commands] == [False, True, False, True]
    stamp.write_text(json.dumps({**content, "root": "elsewhere"}))
    start.make_environment(FILES, clone)
    assert [is_pip(command) for command in commands] == [False, True, False, True, True]


def test_environment_of_the_user_is_used_not_removed(clone, commands):
    python = start.get_python(clone / ".venv")
    python.parent.mkdir(parents=True)
    python.write_text("the user's")
    start.make_environment(FILES, clone)
    assert python.read_text() == "the user's"
    assert [is_pip(command) for command in commands] == [True]


def test_second_installation_waits_for_the_first(clone):
    code = (
        "import start, time\nfrom pathlib import Path\n"
        f"with start.lock(Path({str(clone)!r})):\n print('held', flush=True)\n time.sleep(1)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=start.ROOT, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"held\n"
        begin = time.monotonic()
        with start.lock(clone):
            assert time.monotonic() - begin > 0.5


def test_failed_command_shows_its_last_lines_and_the_next_step(tmp_path):
    command = [sys.executable, "-c", "print('no matching distribution'); raise SystemExit(1)"]
    with pytest.raises(start.StartError, match=r"no matching distribution\nInstalling failed") as e:
        start.run_logged(command, tmp_path / "log", "Installing", "look at the network")
    assert str(e.value).endswith(f"(see {tmp_path / 'log'}); look at the network.")


def test_progress_of_a_log_is_a_line_now_and_then(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(start, "PROGRESS_LOG_S", 0.2)
    code = "import time; print('Collecting keras (from x)', flush=True); time.sleep(1)"
    start.run_logged([sys.executable, "-c", code], tmp_path / "log", "Installing", "")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Installing"
    assert any(line.endswith(" s, getting keras (package 1)") for line in lines[1:-1])
    assert lines[-1].startswith("  done in ")


def test_progress_counts_installed_packages(tmp_path):
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    for name in ("keras-3.dist-info", "numpy-2.dist-info", "keras"):
        (site / name).mkdir(parents=True)
    text = "Collecting keras\n  Downloading keras\nCollecting numpy\n"
    assert start.describe_pip(text, tmp_path) == ", getting numpy (package 2)"
    text += "Installing collected packages: a, keras, numpy\n  Successfully uninstalled a\n"
    assert start.describe_pip(text, tmp_path) == ", installing (2 of 3 packages)"
    assert start.describe_pip("WARNING: an index is slow\n", tmp_path) == ""


@pytest.mark.parametrize("version", [(3, 10), (3, 14), (2, 7)])
def test_python_without_wheels_is_refused(version, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: name if name == "python3.12" else None)
    text = f"This is Python {version[0]}.{version[1]}, and TensorFlow 2.21 wants 3.11 to 3.13; "
    with pytest.raises(start.StartError, match=text + "python3.12 is here"):
        start.check_python(version)


@pytest.mark.parametrize("version", [(3, 11), (3, 13)])
def test_python_with_wheels_is_taken(version):
    assert start.check_python(version) is None


@pytest.fixture
def executed(monkeypatch):
    """What would replace this process."""
    seen = {}

    def execve(path, command, variables):
        seen.update(command=command, variables=variables)

    monkeypatch.setattr(os, "execve", execve)
    monkeypatch.setattr(start, "make_environment", lambda files: Path(".venv/bin/python"))
    monkeypatch.setattr(start, "list_experiments", lambda: ["ssd", "tune"])
    return seen


@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        (["ssd"], ["--epochs", "75"]),
        (["ssd", "--seed", "3"], ["--epochs", "75", "--seed", "3"]),
        (["ssd", "--epochs", "5"], ["--epochs", "75", "--epochs", "5"]),
        (["ssd", "--smoke"], ["--smoke"]),
        (["ssd", "--recipe=paper"], ["--recipe=paper"]),
        (["tune", "--trials", "2"], ["--trials", "2"]),
    ],
)
def test_experiment_gets_the_arguments(executed, args, wanted):
    start.main(args)
    python = str(Path(".venv/bin/python"))
    assert executed["command"] == [python, "-m", f"experiments.{args[0]}", *wanted]


def test_variables_are_set_but_the_users_stay(executed, monkeypatch):
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    start.main(["ssd"])
    assert executed["variables"]["TF_ENABLE_ONEDNN_OPTS"] == "1"
    assert executed["variables"]["TF_CPP_MIN_LOG_LEVEL"] == "0"


def test_help_of_an_experiment_installs_nothing(executed, monkeypatch):
    monkeypatch.setattr(start, "make_environment", None)
    start.main(["ssd", "--help"])
    assert executed["command"][0] == sys.executable
    assert executed["variables"]["PYTHONPATH"] == str(start.ROOT)


def test_unknown_command_names_the_nearest(executed, capsys):
    assert start.main(["tset"]) == 2
    assert capsys.readouterr().err == "There is no command 'tset'; did you mean 'test'?\n"


@pytest.mark.parametrize("args", [["--help"], ["test", "--help"], ["test", "-k", "boxes", "-h"]])
def test_help_runs_no_check(args, checks, capsys):
    assert start.main(args) == 0
    assert "ARGS go to pytest" in capsys.readouterr().out
    assert checks[1] == []


def test_no_command_shows_the_usage(capsys):
    assert start.main([]) == 2
    assert "python3 start.py test" in capsys.readouterr().out


@pytest.fixture
def checks(monkeypatch):
    """Lets every check pass but the named ones; "pytest" is a small program."""
    failing = set()
    ran = []

    def run_step(command, variables):
        name = " ".join([Path(command[0]).name, *command[1:3]])
        ran.append(name)
        return not any(word in name for word in failing)

    monkeypatch.setattr(start, "make_environment", lambda files: Path(sys.executable))
    monkeypatch.setattr(start, "run_step", run_step)
    return failing, ran


def fake_pytest(monkeypatch, code, text="1 failed in 3.00s\n"):
    real = subprocess.Popen

    def popen(command, **options):
        return real([sys.executable, "-c", f"print({text!r}); raise SystemExit({code})"], **options)

    monkeypatch.setattr(subprocess, "Popen", popen)


def test_all_checks_run_and_the_last_line_is_pytests(checks, capsys, monkeypatch):
    fake_pytest(monkeypatch, 0, "....\n4 passed in 3.00s\n")
    assert start.main(["test"]) == 0
    assert [name.split()[0] for name in checks[1][:4]] == ["ruff", "ruff", "mypy", "codespell"]
    assert checks[1][4].endswith("-m experiments.ssd")
    assert capsys.readouterr().out.splitlines()[-2:] == ["....", "4 passed in 3.00s"]


def test_failed_lint_fails_but_the_rest_still_runs(checks, capsys, monkeypatch):
    fake_pytest(monkeypatch, 0, "4 passed in 3.00s")
    checks[0].update({"mypy", "experiments.ssd"})
    assert start.main(["test"]) == 1
    assert len(checks[1]) == 5
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "FAILED beside the tests: mypy, smoke run",
        "4 passed in 3.00s",
    ]


def test_failed_tests_fail(checks, monkeypatch):
    fake_pytest(monkeypatch, 1)
    assert start.main(["test"]) == 1


@pytest.mark.parametrize("there", [True, False])
def test_real_data_decides_about_tests_marked_real(tmp_path, monkeypatch, there):
    seen = {}
    real = subprocess.Popen

    def popen(command, env, **options):
        seen.update(command=command, env=env)
        return real([sys.executable, "-c", "print('ok')"], **options)

    monkeypatch.setattr(subprocess, "Popen", popen)
    folder = tmp_path if there else tmp_path / "none"
    monkeypatch.setenv("LESIONKERAS_REAL_DATA", str(folder))
    start.run_pytest(Path("python"), ["-k", "boxes"], dict(os.environ))
    marks = seen["command"][seen["command"].index("-m", 2) + 1]
    assert marks == "not slow and not gpu" + ("" if there else " and not real")
    assert seen["command"][-2:] == ["-k", "boxes"]
    if there:
        assert seen["env"]["LESIONKERAS_REAL_DATA"] == str(folder)


def test_step_reports_its_exit_code(capfd):
    assert start.run_step([sys.executable, "-c", "print('seen')"], dict(os.environ))
    assert not start.run_step([sys.executable, "-c", "raise SystemExit(3)"], dict(os.environ))
    out = capfd.readouterr().out
    assert "seen\n== ok after" in out
    assert "== FAILED with exit code 3 after" in out


def test_interrupt_is_said_in_one_line(monkeypatch, capsys):
    def interrupt(files):
        raise KeyboardInterrupt

    monkeypatch.setattr(start, "make_environment", interrupt)
    assert start.main(["test"]) == 128 + signal.SIGINT
    assert capsys.readouterr().err == "\nStopped; the same command goes on from here.\n"

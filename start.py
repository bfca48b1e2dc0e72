"""Makes the project's own environment in .venv and runs something in it; wants Python alone.

  python3 start.py ssd [ARGS...]    trains, tests and exports the detector, 75 epochs on phantom CT
  python3 start.py NAME [ARGS...]   runs another experiment: experiments/NAME.py
  python3 start.py test [ARGS...]   lint, a smoke run of the detector, fast tests; ARGS go to pytest

The first call installs 3.2 GB of pinned packages in two to eight minutes; later ones start at once.
"""

import contextlib
import difflib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

# This file must compile on an old Python, if only to say that it is too old: no annotations that
# need a newer one (hence the quotes), no newer syntax.

ROOT = Path(__file__).resolve().parent
OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 13)  # those that TensorFlow 2.21 has wheels for
RUN_FILES = ("requirements.txt", "setup.py")
TEST_FILES = (*RUN_FILES, "requirements-dev.txt")
STAMP = "made-by-start.json"
PROGRESS_TERMINAL_S, PROGRESS_LOG_S = 1.0, 30.0
# Imports of most runs. Where the user's Python keeps no bytecode, each process would compile these
# 3,500 modules anew, which takes 12 s of two cores; the environment is ours and may keep it.
KEEP_BYTECODE = (
    "import sys; sys.dont_write_bytecode = False; "
    "import tensorflow, keras_cv, tensorflow_datasets, keras_tuner, matplotlib.figure, pandas"
)
DEFAULT_ARGS = {"ssd": ("--epochs", "75")}
LINT = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("mypy",),
    ("codespell",),
)


class StartError(Exception):
    """What a user can put right, in one sentence."""


def check_python(version: "tuple[int, int]" = sys.version_info[:2]) -> None:
    """Raises StartError unless the packages have wheels for this Python."""
    if OLDEST_PYTHON <= version <= NEWEST_PYTHON:
        return
    names = ["python3." + str(minor) for minor in range(NEWEST_PYTHON[1], OLDEST_PYTHON[1] - 1, -1)]
    there = [name for name in names if shutil.which(name)]
    step = there[0] + " is here: use it in place of python3" if there else "install one of these"
    raise StartError(
        "This is Python {}.{}, and TensorFlow 2.21 wants 3.11 to 3.13; {}.".format(*version, step)
    )


def list_experiments(root: Path = ROOT) -> "list[str]":
    """Names of the files in experiments/ that can be run."""
    return sorted(p.stem for p in (root / "experiments").glob("*.py") if p.stem[0] != "_")


def get_python(venv: Path) -> Path:
    """Where the interpreter of an environment lies."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def compute_stamp(files: "tuple[str, ...]", root: Path = ROOT) -> "dict[str, str]":
    """What an environment made for these files depends on: their bytes, the Python, the folder."""
    stamp = {"python": "{}.{}".format(*sys.version_info[:2]), "root": str(root)}
    for name in files:
        stamp[name] = hashlib.sha256((root / name).read_bytes()).hexdigest()
    return stamp


def read_stamp(venv: Path) -> "dict[str, str] | None":
    """The stamp of an environment; {} if its installation was cut short, None if it has none."""
    try:
        return dict(json.loads((venv / STAMP).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except ValueError:
        return {}


def make_environment(files: "tuple[str, ...]", root: Path = ROOT) -> Path:
    """Makes root/.venv with the packages that files name, unless it is there; gives its Python."""
    venv = root / ".venv"
    python, wanted = get_python(venv), compute_stamp(files, root)
    with lock(root) as descriptors:
        found = read_stamp(venv)
        if found is not None:
            if python.exists() and wanted.items() <= found.items():
                return python
            if not python.exists() or found.get("python") != wanted["python"]:
                shutil.rmtree(venv)  # ours, and cut short or of another Python: pip cannot mend it
        venv.mkdir(parents=True, exist_ok=True)
        # Written before and empty, so that whatever stops us from here on leaves a mark.
        (venv / STAMP).write_text("{}", encoding="utf-8")
        if not python.exists():
            make_venv(venv, descriptors)
        install(python, files, root, descriptors)
        (venv / STAMP).write_text(json.dumps(wanted, indent=1), encoding="utf-8")
    return python


@contextlib.contextmanager
def lock(root: Path) -> "Iterator[tuple[int, ...]]":
    """Keeps two calls from installing at once; gives what a child inherits to hold the lock too.

    So a pip that outlives a killed start.py is waited for, and does not write into a new .venv.
    """
    if os.name == "nt":  # no fcntl
        yield ()
        return
    import fcntl

    descriptor = os.open(str(root), os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Waiting for another installation in this folder to end", flush=True)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield (descriptor,)
    finally:
        os.close(descriptor)


def make_venv(venv: Path, descriptors: "tuple[int, ...]" = ()) -> None:
    """Makes an empty virtual environment."""
    step = "on Debian or Ubuntu: sudo apt install python3-venv"
    command = [sys.executable, "-m", "venv", str(venv)]
    run_logged(command, venv / "venv.log", "Making .venv", step, descriptors)


def install(
    python: Path, files: "tuple[str, ...]", root: Path, descriptors: "tuple[int, ...]" = ()
) -> None:
    """Installs the requirement files among files, and this project as a link."""
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    # Python compiles what is imported; to compile all at once costs minutes on two cores.
    command += ["--no-compile", "--progress-bar", "off", "--editable", str(root)]
    for name in files:
        command += ["--requirement", str(root / name)] if name.endswith(".txt") else []
    label = "Installing TensorFlow, Keras and the rest into .venv (3.2 GB, 2 to 8 minutes)"
    step = "see that the network and 4 GB of disk are there and give the same command again"
    run_logged(command, root / ".venv" / "pip.log", label, step, descriptors)
    if os.environ.get("PYTHONDONTWRITEBYTECODE"):
        command = [str(python), "-c", KEEP_BYTECODE]
        label = "Compiling what is imported (half a minute)"
        run_logged(command, root / ".venv" / "compile.log", label, step, descriptors)


def run_logged(
    command: "list[str]",
    log: Path,
    label: str,
    next_step: str,
    descriptors: "tuple[int, ...]" = (),
) -> None:
    """Runs a command with its output in a file and one line of progress on the screen."""
    begin, terminal = time.monotonic(), sys.stdout.isatty()
    print(label, end="" if terminal else "\n", flush=True)
    with log.open("w", encoding="utf-8") as out:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            pass_fds=descriptors,
        )
    try:
        wait(process, log, label, terminal)
    finally:
        process.terminate()  # nothing where it has ended; without it, Ctrl-C leaves a pip behind
        process.wait()
    took = f"{time.monotonic() - begin:.0f} s"
    if process.returncode:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        tail = "\n".join([line for line in lines if line.strip()][-8:])
        raise StartError(f"\n{tail}\n{label} failed after {took} (see {log}); {next_step}.")
    print(f"\r\033[K{label}: done in {took}" if terminal else f"  done in {took}", flush=True)


def wait(process: "subprocess.Popen[bytes]", log: Path, label: str, terminal: bool) -> None:
    """Waits for a process and says now and then how far it is."""
    begin = time.monotonic()
    while True:
        try:
            process.wait(PROGRESS_TERMINAL_S if terminal else PROGRESS_LOG_S)
            return
        except subprocess.TimeoutExpired:
            show_progress(label, log, time.monotonic() - begin, terminal)


def show_progress(label: str, log: Path, elapsed_s: float, terminal: bool) -> None:
    """Says how long it has taken and what is being done, on one line of a terminal."""
    doing = describe_pip(log.read_text(encoding="utf-8", errors="replace"), log.parent)
    line = f"{label}: {elapsed_s:.0f} s{doing}" if terminal else f"  {elapsed_s:.0f} s{doing}"
    width = shutil.get_terminal_size().columns - 1
    print("\r\033[K" + line[:width] if terminal else line, end="" if terminal else "\n", flush=True)


def describe_pip(text: str, venv: Path) -> str:
    """What pip is at, from what it has printed and the packages that are there."""
    lines = [line for line in text.splitlines() if line.startswith(("Collecting ", "Installing "))]
    if not lines:
        return ""
    if lines[-1].startswith("Collecting "):
        return f", getting {lines[-1].split()[1]} (package {len(lines)})"
    total = lines[-1].count(",") + 1  # "Installing collected packages: a, b, c"
    folders = ("lib/*/site-packages", "Lib/site-packages")  # the second on Windows
    there = sum(1 for folder in folders for _ in venv.glob(folder + "/*.dist-info"))
    return f", installing ({min(there, total)} of {total} packages)"


def make_variables() -> "dict[str, str]":
    """The variables of a run; what the user has set stays."""
    return {
        "TF_CPP_MIN_LOG_LEVEL": "2",  # no pages about CUDA on a machine without it
        "TF_ENABLE_ONEDNN_OPTS": "1",  # off by default on AVX2; saves a fifth of the CPU time
        "PYTHONUNBUFFERED": "1",  # progress at once, in a log too
        **os.environ,
    }


def run_experiment(name: str, args: "list[str]") -> int:
    """Runs `python -m experiments.NAME` in the environment, in place of this process."""
    wants_help = bool({"-h", "--help"} & set(args))
    # Help needs the standard library alone: nobody should install 3 GB to read it.
    python = Path(sys.executable) if wants_help else make_environment(RUN_FILES)
    has_own = any(arg.split("=")[0] in ("--recipe", "--smoke") for arg in args)
    args = [*(() if has_own else DEFAULT_ARGS.get(name, ())), *args]
    command = [str(python), "-m", "experiments." + name, *args]
    variables = make_variables()
    if wants_help:
        variables["PYTHONPATH"] = str(ROOT)
    if os.name == "nt":
        return subprocess.call(command, env=variables)
    sys.stdout.flush()
    os.execve(command[0], command, variables)  # so that signals and the exit code are the run's own


def run_tests(args: "list[str]") -> int:
    """Runs every check, also after one has failed; pytest's own last line is the last of all."""
    python = make_environment(TEST_FILES)
    variables = make_variables()
    failed = [" ".join(tool) for tool in LINT if not run_step(make_lint(python, tool), variables)]
    with tempfile.TemporaryDirectory(prefix="lesionkeras-") as folder:
        smoke = [str(python), "-m", "experiments.ssd", "--smoke", "--out", folder + "/run"]
        smoke += ["--prepared-dir", folder + "/prepared"]
        failed += [] if run_step(smoke, variables) else ["smoke run"]
    tests_ok, last_line = run_pytest(python, args, variables)
    if failed:
        print("FAILED beside the tests: " + ", ".join(failed))
    print(last_line, flush=True)
    return 0 if tests_ok and not failed else 1


def make_lint(python: Path, tool: "tuple[str, ...]") -> "list[str]":
    """The command of a tool in the environment of python."""
    return [str(python.with_name(tool[0])), *tool[1:]]


def run_step(command: "list[str]", variables: "dict[str, str]") -> bool:
    """Runs one check with its output on the screen; True if it passed."""
    shown, begin = " ".join([Path(command[0]).name, *command[1:]]), time.monotonic()
    print("== " + shown, flush=True)
    code = subprocess.call(command, cwd=str(ROOT), env=variables, stdin=subprocess.DEVNULL)
    verdict = "ok" if code == 0 else f"FAILED with exit code {code}"
    print(f"== {verdict} after {time.monotonic() - begin:.0f} s: {shown}", flush=True)
    return code == 0


def run_pytest(python: Path, args: "list[str]", variables: "dict[str, str]") -> "tuple[bool, str]":
    """Runs the fast tests on every core (four at most); whether they passed, and the last line."""
    marks = "not slow and not gpu"
    real_data = Path(os.environ.get("LESIONKERAS_REAL_DATA") or ROOT.parent / "shared" / "data")
    if real_data.is_dir():
        variables = {**variables, "LESIONKERAS_REAL_DATA": str(real_data)}
    else:
        print(f"== no real CT files in {real_data}: the tests marked real are left out", flush=True)
        marks += " and not real"
    workers = str(min(4, os.cpu_count() or 1))
    command = [str(python), "-m", "pytest", "-m", marks, "-n", workers, "--dist", "loadfile", *args]
    command += ["--color=yes"] if sys.stdout.isatty() else []
    print("== " + " ".join(["python", *command[1:]]), flush=True)
    process = subprocess.Popen(
        command,
        cwd=str(ROOT),
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    assert process.stdout is not None
    last = ""
    for line in process.stdout:  # the last line is held back for the end
        if line.strip():
            print(last, end="", flush=True)
            last = line
    return process.wait() == 0, last.rstrip()


def main(args: "list[str]") -> int:
    """Runs what the command line says; returns the exit code."""
    commands = [*list_experiments(), "test"]
    if not args or {"-h", "--help"} & set(args[:1] if args[0] != "test" else args):
        print(__doc__ + "\nNAME is one of: " + ", ".join(commands))
        return 0 if args else 2
    try:
        check_python()
        if args[0] not in commands:
            near = (difflib.get_close_matches(args[0], commands, 1) or ["ssd"])[0]
            raise StartError(f"There is no command {args[0]!r}; did you mean {near!r}?")
        return run_tests(args[1:]) if args[0] == "test" else run_experiment(args[0], args[1:])
    except StartError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{error}; see that this folder can be written to.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped; the same command goes on from here.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

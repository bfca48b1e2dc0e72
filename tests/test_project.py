"""The project as a whole: what is packaged, versions, the commands that the pages name, sizes."""

import ast
import functools
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.metadata import parse_email
from packaging.requirements import Requirement

import lesionkeras
import start

ROOT = Path(__file__).resolve().parents[1]
PACKAGED = ("lesionkeras", "tfds_builders", "experiments")
MAX_FILE_BYTES = 1_000_000
MAX_MODULE_LINES, MAX_EXPERIMENT_LINES, MAX_FUNCTION_LINES = 400, 80, 60


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def list_files():
    """Every file of the project, without what .gitignore names."""
    ignored = {line.strip("/") for line in read(".gitignore").splitlines()} | {".git"}
    found = []
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [f for f in folders if f not in ignored and not f.endswith(".egg-info")]
        found += [Path(folder) / name for name in files]
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """What `pip install .` would install: the names and bytes in the wheel."""
    source = tmp_path_factory.mktemp("source")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in PACKAGED:
        no_caches = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=no_caches)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    command += ["--disable-pip-version-check", "--wheel-dir", str(source / "out"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = (source / "out").glob("lesionkeras-*.whl")
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_wheel_holds_every_module_and_nothing_else_of_ours(wheel):
    modules = {
        str(path.relative_to(ROOT))
        for name in PACKAGED
        for path in (ROOT / name).rglob("*.py")
        if "dummy_data" not in path.parts
    }
    assert {name for name in wheel if name.endswith(".py")} == modules


def test_wheel_holds_the_type_marker_the_builders_pages_and_no_dummy_data(wheel):
    assert "lesionkeras/py.typed" in wheel
    for name in ("liver_phantom", "deeplesion", "lits", "ircadb01", "folder"):
        for page in ("README.md", "TAGS.txt", "CITATIONS.bib"):
            assert f"tfds_builders/{name}/{page}" in wheel
    assert not [name for name in wheel if "/dummy_data/" in name]


def test_wheel_carries_licence_version_and_extras(wheel):
    (metadata,) = (data.decode() for name, data in wheel.items() if name.endswith("/METADATA"))
    assert f"\nVersion: {lesionkeras.__version__}\n" in metadata
    assert "\nRequires-Python: >=3.11\n" in metadata
    for extra in ("gpu", "beam", "serving", "dev"):
        assert f"\nProvides-Extra: {extra}\n" in metadata
    (licence,) = (data for name, data in wheel.items() if name.endswith("LICENSE"))
    assert b"Apache License" in licence


def test_wheel_alone_can_be_imported(wheel, tmp_path):
    for name, data in wheel.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    code = "import lesionkeras; print(lesionkeras.__file__, lesionkeras.__version__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    wanted = f"{tmp_path / 'lesionkeras' / '__init__.py'} {lesionkeras.__version__}\n"
    assert done.stdout == wanted


def test_one_version_everywhere():
    version = lesionkeras.__version__
    assert yaml.safe_load(read("CITATION.cff"))["version"] == version
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d$", read("CHANGELOG.md"), re.M)
    assert released[0] == version


def read_pins(name):
    lines = [line.split("#")[0].strip() for line in read(name).splitlines()]
    return dict(re.fullmatch(r"([\w.-]+(?:\[\w+\])?)==([\w.]+)", li).groups() for li in lines if li)


def test_pins_lie_in_the_ranges_of_setup(wheel):
    (metadata,) = (data for name, data in wheel.items() if name.endswith("/METADATA"))
    raw, _ = parse_email(metadata)
    pins = {
        re.sub(r"\[.*", "", name).replace("_", "-"): version
        for file in ("requirements.txt", "requirements-dev.txt")
        for name, version in read_pins(file).items()
    }
    checked = set()
    for text in raw["requires_dist"]:
        wanted = Requirement(text)
        name = wanted.name.replace("_", "-")
        if name in pins:
            assert wanted.specifier.contains(pins[name]), f"{text}: {pins[name]} is pinned"
            checked.add(name)
    assert checked == set(pins)


def find_commands(page):
    """The command lines in the fenced blocks of a page, continued lines joined."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", read(page), re.M | re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split("#")[0].strip() for line in lines]


PAGES = ("README.md", "CONTRIBUTING.md", "docs/detection.md", "docs/outlining.md")


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_the_pages_exist(page):
    known = [*start.list_experiments(), "test"]
    commands = find_commands(page)
    run = [line for line in commands if re.search(r"start\.py|-m experiments\.", line)]
    assert run
    for line in run:
        name = re.search(r"(?:start\.py |-m experiments\.)(\w+)", line).group(1)
        assert name in known, line


def test_readme_has_the_two_commands():
    commands = find_commands("README.md")
    assert "python3 start.py ssd" in commands
    assert "python3 start.py test" in commands


def find_flags():
    """(experiment, flag) of every command in the pages."""
    found = set()
    for line in [line for page in PAGES for line in find_commands(page)]:
        match = re.search(r"(?:start\.py |-m experiments\.)(\w+)(.*)", line)
        if match and match.group(1) != "test":
            found |= {(match.group(1), flag) for flag in re.findall(r"--[\w-]+", match.group(2))}
    return sorted(found)


@functools.cache
def read_help(name):
    command = [sys.executable, "-m", f"experiments.{name}", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return done.stdout + done.stderr


@pytest.mark.parametrize(("name", "flag"), find_flags())
def test_flags_of_the_pages_are_in_the_help(name, flag):
    assert re.search(rf"{flag}\b", read_help(name)), read_help(name)


def test_links_of_the_pages_lead_somewhere():
    for page in (*PAGES, "CHANGELOG.md"):
        for target in re.findall(r"\]\(([^)#]+)", read(page)):
            known = target.startswith("https://") or (ROOT / page).parent.joinpath(target).exists()
            assert known, f"{page}: {target}"


def test_ci_is_the_readmes_test_command():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "exec python3 start.py test" in script.read_text()


def test_pre_commit_runs_what_ci_runs():
    (repo,) = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    assert repo["repo"] == "local"  # no other host than PyPI is needed
    entries = " ".join(hook["entry"] for hook in repo["hooks"])
    for tool in start.LINT:
        wanted = " ".join(word for word in tool if word not in (".", "--check"))
        assert f".venv/bin/{wanted}" in entries
    assert str(MAX_FILE_BYTES) in entries


def test_no_file_is_large():
    assert not [p for p in list_files() if p.stat().st_size > MAX_FILE_BYTES]


def test_no_path_of_one_machine_and_no_drawer_for_odds_and_ends():
    places = re.compile("|".join(["/" + "work/", "/" + "tmp/lk", "/" + "root/", "/" + "home/"]))
    files = list_files()
    texts = [p for p in files if p.suffix in (".py", ".md", ".toml", ".txt", ".yaml", ".cff")]
    assert not [p for p in texts if places.search(p.read_text(encoding="utf-8"))]
    assert not {p.stem for p in files if p.suffix == ".py"} & {"utils", "helpers", "common"}


def list_python_files():
    return [p for p in list_files() if p.suffix == ".py"]


def test_modules_and_functions_stay_short():
    wrong = []
    for path in list_python_files():
        source = path.read_text(encoding="utf-8")
        limit = MAX_EXPERIMENT_LINES if path.parent == ROOT / "experiments" else MAX_MODULE_LINES
        if len(source.splitlines()) > limit:
            wrong.append(f"{path.relative_to(ROOT)} has over {limit} lines")
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name} is too long")
    assert not wrong, "\n".join(wrong)


def test_settings_know_the_marks_that_start_uses():
    settings = tomllib.loads(read("pyproject.toml"))["tool"]["pytest"]["ini_options"]
    assert {mark.split(":")[0] for mark in settings["markers"]} == {"slow", "real", "gpu"}

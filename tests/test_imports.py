"""Who may import whom: every module's imports, also those inside functions, against the layers."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = ("lesionkeras", "tfds_builders", "experiments")

KNOBS = {"errors", "files", "config", "limits", "recipe"}
BASE = KNOBS | {"ct", "boxes", "metrics"}
LOSSES = {"losses", "rcnn_losses", "segmentation_losses"}
ENGINE = BASE | LOSSES | {"data", "models"}
# What each part of the library may import beside itself.
ALLOWED = {
    "errors": set(),
    "files": set(),
    "config": {"errors"},
    "limits": {"errors", "config"},
    "recipe": {"errors", "files", "config", "limits"},
    "cli": KNOBS,
    "cli_data": KNOBS | {"cli"},
    "cli_evaluate": KNOBS | {"cli"},
    "ct": KNOBS,
    "boxes": KNOBS,
    "metrics": KNOBS | {"boxes"},  # box geometry stands in one place
    "data": BASE,
    "losses": BASE,
    "rcnn_losses": BASE | {"losses"},
    "segmentation_losses": BASE,
    "models": BASE | LOSSES,  # never data: a network does not know where images come from
    "training": ENGINE,
    "inference": ENGINE,
    "serving": ENGINE,
    "report": ENGINE | {"training", "inference", "serving"},
}
LIBRARY = set(ALLOWED) | {"__version__", "__init__"}
ONLY_STANDARD_LIBRARY = (*sorted(KNOBS), "cli", "cli_data", "cli_evaluate")
NO_ENGINE = {"ct": {"keras", "keras_cv"}, "metrics": {"tensorflow", "keras", "keras_cv"}}
# Networks also run on Keras' other engines; where keras.ops has no equal a comment must say so.
COMMENTED_TENSORFLOW = ("boxes", "losses", "rcnn_losses", "segmentation_losses", "models")


def list_modules():
    return [p for folder in PROJECT for p in sorted((ROOT / folder).rglob("*.py"))]


def get_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def find_imports(source, name, is_package=False):
    """(line, dotted name) of every import, lazy and by string included; relative ones resolved."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = name.split(".")[: len(name.split(".")) - node.level + is_package]
            base = ".".join([*(parents if node.level else []), *filter(None, [node.module])])
            found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.Call) and node.args:
            called = ast.unparse(node.func).split(".")[-1]
            if called in ("import_module", "__import__"):
                text = node.args[0]
                text = text.values[0] if isinstance(text, ast.JoinedStr) else text
                if isinstance(text, ast.Constant):
                    found.append((node.lineno, str(text.value)))
    return found


def check(name, imported):
    """Why a module may not import another, or None."""
    importer, target = name.split("."), imported.split(".")
    if target[0] not in PROJECT:
        return None
    if target[0] == importer[0] != "lesionkeras":
        return None
    if target[0] == "experiments":
        return "nobody imports experiments"
    if target[0] == "tfds_builders":
        # experiments is where data set and library meet; a training host needs no builder.
        return None if importer[0] == "experiments" else "the library imports no data set"
    part = target[1] if len(target) > 1 else "__init__"
    if part not in LIBRARY:
        return f"{part} has no place in the layers"
    if part in ("__version__", "__init__") or importer[0] == "experiments":
        return None
    if importer[0] == "tfds_builders":
        return None if part in ("ct", "errors") else "data sets import only ct and errors"
    own = importer[1] if len(importer) > 1 else "__init__"
    if own == "__init__" or part == own or part in ALLOWED[own]:
        return None
    return f"{own} is not above {part}"


@pytest.mark.parametrize("path", list_modules(), ids=get_name)
def test_imports_go_one_way(path):
    name, source = get_name(path), path.read_text(encoding="utf-8")
    imports = find_imports(source, name, path.name == "__init__.py")
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {imported}: {reason}"
        for line, imported in imports
        if (reason := check(name, imported))
    ]
    assert not wrong, "\n".join(wrong)


def test_every_part_of_the_library_has_its_layer():
    parts = {p.stem for p in (ROOT / "lesionkeras").iterdir() if not p.name.startswith("__")}
    assert parts - {"py"} <= set(ALLOWED)


@pytest.mark.parametrize("path", list_modules(), ids=get_name)
def test_engines_stay_where_they_belong(path):
    name, source = get_name(path), path.read_text(encoding="utf-8")
    part = [*name.split("."), ""][1]
    lines = source.splitlines()
    wrong = []
    for line, imported in find_imports(source, name):
        package = imported.split(".")[0]
        if package in NO_ENGINE.get(part, ()):
            wrong.append(f"line {line} imports {package}")
        if package == "tensorflow" and part in COMMENTED_TENSORFLOW:
            near = lines[max(0, line - 2) : line]
            if not any("#" in text for text in near):
                wrong.append(f"line {line}: say in a comment why keras.ops will not do")
    assert not wrong, wrong


@pytest.mark.parametrize("part", ONLY_STANDARD_LIBRARY)
def test_light_modules_need_the_standard_library_alone(part):
    here = ROOT / "lesionkeras" / part
    files = sorted(here.glob("*.py")) if here.is_dir() else [here.with_suffix(".py")]
    assert files
    for file in files:
        source = file.read_text(encoding="utf-8")
        packages = {i.split(".")[0] for _, i in find_imports(source, get_name(file))}
        assert packages <= set(sys.stdlib_module_names) | {"lesionkeras"}


def test_experiments_can_be_imported_without_any_package():
    # -S: no site-packages, so that one import of NumPy fails here and not in the user's --help.
    names = [get_name(p) for p in sorted((ROOT / "experiments").glob("*.py"))]
    assert "experiments.ssd" in names
    code = "; ".join(f"import {name}" for name in names)
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "imported", "reason"),
    [
        ("lesionkeras.models.ssd", "lesionkeras.data.pipeline", "models is not above data"),
        ("lesionkeras.boxes.anchors", "lesionkeras.models", "boxes is not above models"),
        ("lesionkeras.training.fit", "lesionkeras.report.page", "training is not above report"),
        ("lesionkeras.data.prepared", "tfds_builders", "the library imports no data set"),
        ("tfds_builders.lits", "lesionkeras.boxes", "data sets import only ct and errors"),
        ("tfds_builders.lits", "experiments.ssd", "nobody imports experiments"),
        ("lesionkeras.ct.window", "lesionkeras.utils", "utils has no place in the layers"),
        ("lesionkeras.models.ssd", "lesionkeras.boxes.anchors", None),
        ("lesionkeras.report.page", "lesionkeras.training.run", None),
        ("tfds_builders.lits", "lesionkeras.ct.nifti", None),
        ("experiments.ssd", "tfds_builders.open_builder", None),
        ("lesionkeras.ct.window", "numpy", None),
    ],
)
def test_check_knows_the_directions(name, imported, reason):
    assert check(name, imported) == reason


def test_find_imports_sees_lazy_relative_and_dynamic_ones():
    source = "\n".join(
        [
            "import a.b",
            "def f():",
            "    from c import d",
            "    from . import e",
            "    from ..ct.window import g",
            "    importlib.import_module(f'tfds_builders.{name}')",
        ]
    )
    assert find_imports(source, "lesionkeras.data.pipeline") == [
        (1, "a.b"),
        (3, "c.d"),
        (4, "lesionkeras.data.e"),
        (5, "lesionkeras.ct.window.g"),
        (6, "tfds_builders."),
    ]
    assert find_imports("from . import e", "lesionkeras.data", is_package=True) == [
        (1, "lesionkeras.data.e")
    ]

"""The tests that guard the house: order of rooms, public names, presets, the wheel, and what no room may do."""

from __future__ import annotations

import ast
import functools
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import autoseg
from autoseg import presets

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "autoseg"

# A room imports only from rooms that stand before it. CONTRIBUTING.md shows the same table.
ROOMS = (
    "version",
    "errors",
    "quantities",
    "tables",
    "files",
    "checksums",
    "geometry",
    "schema",
    "labels",
    "colours",
    "metrics",
    "leases",
    "locks",
    "shards",
    "workspace",
    "resources",
    "measurements",
    "outcomes",
    "workers",
    "machine",
    "extensions",
    "losses",
    "architectures",
    "normalization",
    "presets",
    "images",
    "cases",
    "checking",
    "looks",
    "fingerprint",
    "planning",
    "preprocessing",
    "networks",
    "threads",
    "tiling",
    "postprocessing",
    "sharing",
    "calibration",
    "prediction",
    "training",
    "evaluation",
    "selection",
    "suspects",
    "phantoms",
    "pictures",
    "report",
    "pipeline",
    "demo",
    "terminal",
    "cli",
)
TORCH_FROM = "networks"

# The public Python surface. A name is added here on purpose, and never taken away.
PUBLIC = ("__version__", "evaluate", "export", "load", "plan", "predict", "train")


def test_a_room_imports_only_from_rooms_above_it() -> None:
    wrong = [
        f"{path.relative_to(REPOSITORY)}:{line} imports {room}"
        for path in _modules()
        for line, room in _rooms_imported(path)
        if _height(room) > _height(_room_of(path))
    ]
    assert not wrong, "\n".join(wrong)


def test_every_module_belongs_to_a_room_of_the_list_and_no_room_is_called_utils() -> None:
    found = {_room_of(path) for path in _modules()}
    assert found == set(ROOMS), f"not listed: {sorted(found - set(ROOMS))}; listed, but not there: {sorted(set(ROOMS) - found)}"
    vague = [str(path.relative_to(REPOSITORY)) for path in _modules() if re.fullmatch("utils?|helpers?|common|misc", path.stem)]
    assert not vague, vague


def test_the_reader_of_imports_sees_every_way_to_write_one(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text(
        "import autoseg.tiling\n"
        "import autoseg\n"
        "from autoseg import geometry as g, labels\n"
        "from autoseg.images import nifti\n"
        "import numpy\n"
        "def f():\n"
        "    if True:\n"
        "        from autoseg.training.loop import train\n"
        "    importlib.import_module('autoseg.cli')\n"
    )
    assert list(_rooms_imported(module)) == [(1, "tiling"), (3, "geometry"), (3, "labels"), (4, "images"), (8, "training"), (9, "cli")]


def test_the_version_of_the_package_is_not_imported_from_the_package(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text("from autoseg import __version__, geometry\n")
    with pytest.raises(AssertionError, match="autoseg.version"):
        list(_rooms_imported(module))


def test_heavy_libraries_are_imported_only_where_they_belong() -> None:
    wrong = []
    for path in _modules():
        room = _room_of(path)
        place = path.relative_to(REPOSITORY)
        everywhere = {name for _, name in _libraries(path, inside_functions=True)}
        at_the_top = {name for _, name in _libraries(path, inside_functions=False)}
        if "torch" in at_the_top and _height(room) < _height(TORCH_FROM):
            wrong.append(f"{place}: torch at the top of a room above {TORCH_FROM}")
        if "torch" in everywhere and _height(room) < _height(TORCH_FROM) and room != "machine":
            wrong.append(f"{place}: torch above {TORCH_FROM}")
        if "SimpleITK" in everywhere and room != "images":
            wrong.append(f"{place}: SimpleITK outside images")
        wrong += [
            f"{place}: {name} at the top of a module"
            for name in ("SimpleITK", "matplotlib", "skimage", "batchgenerators")
            if name in at_the_top
        ]
    assert not wrong, "\n".join(wrong)


def test_the_command_line_and_the_package_load_without_torch() -> None:
    code = (
        "import sys, autoseg, autoseg.cli; print(sorted(set('torch scipy matplotlib SimpleITK nibabel rich'.split()) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_are_the_listed_ones() -> None:
    assert sorted(autoseg.__all__) == sorted(PUBLIC)
    for name in PUBLIC:
        assert isinstance(getattr(autoseg, name), str) or getattr(autoseg, name).__doc__, f"{name} has no docstring"
    inside = {name for name, value in vars(autoseg).items() if not name.startswith("_") and getattr(value, "__module__", "") == "autoseg"}
    assert inside <= set(PUBLIC), "names that look public and are not listed"


@pytest.mark.parametrize("name", presets.planner_names())
def test_every_planner_is_valid_and_each_of_its_numbers_has_a_unit_and_a_source(name: str) -> None:
    preset = presets.planner(name)
    assert preset.description, f"{name} lacks a description"
    raw = tomllib.loads((presets.folder("planners") / f"{name}.toml").read_text())
    bare = list(_bare_numbers(raw, name))
    assert not bare, bare


def test_every_threshold_of_a_check_has_a_unit_and_a_source_and_is_read() -> None:
    raw = tomllib.loads((PACKAGE / "checking" / "thresholds.toml").read_text())
    assert not list(_bare_numbers(raw, "thresholds"))
    for check, table in raw.items():
        code = (PACKAGE / "checking" / f"{check}.py").read_text()
        unread = [name for name in table if f"_LIMITS.{name}" not in code]
        assert not unread, f"{check}: {unread}"


@pytest.mark.parametrize("name", presets.network_names())
def test_every_network_can_be_read_and_says_what_it_is(name: str) -> None:
    assert presets.planner(network=name).values["network"]["kind"] in (name, "residual_unet", "unet")
    assert len(presets.networks()[name]) > 20
    raw = tomllib.loads((presets.folder("networks") / f"{name}.toml").read_text())
    assert not list(_bare_numbers(raw, name)), "numbers without unit and source"


@pytest.mark.parametrize("name", presets.recipe_names())
def test_every_recipe_can_be_read(name: str) -> None:
    assert presets.recipe(name)


def test_the_search_for_bare_numbers_finds_them_at_any_depth() -> None:
    sourced = {"value": [1, 2], "unit": "mm", "source": "a paper"}
    tree = {"a": {"b": {"c": 1, "d": sourced, "e": [[0.5]]}, "f": {"value": 3, "unit": "mm"}, "g": True, "h": "text"}}
    assert list(_bare_numbers(tree, "tree")) == ["tree.a.b.c", "tree.a.b.e", "tree.a.f"]


def test_the_built_wheel_holds_every_module_and_preset_and_nothing_stray(wheel: Path) -> None:
    expected = {str(path.relative_to(REPOSITORY)) for path in _modules(package=True)} | {"autoseg/py.typed"}
    expected |= {f"autoseg/{path.relative_to(REPOSITORY)}" for kind in presets.KINDS for path in (REPOSITORY / kind).rglob("*.toml")}
    expected |= {str(path.relative_to(REPOSITORY)) for kind in ("*.toml", "*.html") for path in PACKAGE.rglob(kind)}
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        entry_points = next(archive.read(name) for name in archive.namelist() if name.endswith("entry_points.txt"))
    assert names == expected, f"stray: {sorted(names - expected)}; lacking: {sorted(expected - names)}"
    assert b"autoseg = autoseg.cli:main" in entry_points
    assert len([name for name in names if name.endswith(".toml")]) >= 2


def test_an_installed_wheel_finds_its_presets(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = "from autoseg import presets; print(presets.__file__, *map(presets.folder, presets.KINDS), presets.planner().name, sep='\\n')"
    done = subprocess.run([sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}"],
                          cwd=tmp_path, capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout.split() == [str(tmp_path / "autoseg" / name) for name in ("presets.py", *presets.KINDS)] + ["default"]


def test_nothing_is_pickled_or_unpickled_but_what_goes_between_a_command_and_its_own_workers() -> None:
    modules = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
    wrong = []
    for path in _modules():
        place = path.relative_to(REPOSITORY)
        allowed = {"pickle"} if place == Path("autoseg/workers.py") else set()
        wrong += [f"{place}:{line} {name}" for line, name in _libraries(path, inside_functions=True) if name in modules - allowed]
        for node in ast.walk(_parsed(path)):
            if isinstance(node, ast.Attribute) and node.attr in ("load", "save") and ast.unparse(node.value) == "torch":
                wrong.append(f"{place}:{node.lineno} {ast.unparse(node)}")
            if isinstance(node, ast.Attribute) and re.fullmatch("[a-z_]+_object(_list)?", node.attr) and "distributed" in ast.unparse(node):
                wrong.append(f"{place}:{node.lineno} {ast.unparse(node)}")
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
                wrong.append(f"{place}:{node.value.lineno} allow_pickle")
    assert not wrong, "\n".join(wrong)


def test_other_interpreters_are_started_by_one_function_that_keeps_the_current_folder_out() -> None:
    wrong = [
        f"{path.relative_to(REPOSITORY)}:{node.lineno}"
        for path in _modules()
        for function in ast.walk(_parsed(path))
        if isinstance(function, ast.FunctionDef) and function.name != "python_command"
        for node in ast.walk(function)
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.executable"
    ]
    assert not wrong, wrong


def test_only_the_command_line_prints() -> None:
    wrong = [
        f"{path.relative_to(REPOSITORY)}:{node.lineno}"
        for path in _modules()
        if _room_of(path) not in ("cli", "terminal")
        for node in ast.walk(_parsed(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "sys.stdout.write", "sys.stderr.write")
    ]
    assert not wrong, wrong


def test_no_path_of_one_machine_is_written_down() -> None:
    absolute = re.compile(r"""(?:^|[\s"'`(=])(/(?:home|root|work|opt|mnt|media|srv|scratch|tmp|var|Users|Volumes|data)/[\w.-]+)""")
    wrong = [
        f"{path.relative_to(REPOSITORY)}:{number} {match[1]}"
        for path in _texts()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        for match in absolute.finditer(line)
    ]
    assert not wrong, "\n".join(wrong)


def test_no_environment_variable_is_needed_or_read() -> None:
    wrong = [
        f"{path.relative_to(REPOSITORY)}:{node.lineno} {ast.unparse(node)}"
        for path in _modules()
        for node in ast.walk(_parsed(path))
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and re.fullmatch("(AUTOSEG|NNUNET|nnUNet)_[A-Za-z_]+", node.value)
        )
    ]
    assert not wrong, "\n".join(wrong)


def test_contributing_shows_the_rooms_in_their_order() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    shown = [name.removesuffix(".py") for name in re.findall(r"^\| `(\w+(?:\.py|/))` \|", text, flags=re.MULTILINE)]
    assert [name.rstrip("/") for name in shown] == list(ROOMS)
    folders = [name.rstrip("/") for name in shown if name.endswith("/")]
    assert folders == [room for room in ROOMS if (PACKAGE / room).is_dir()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources, without a network and without leaving anything in the checkout."""
    copy, out = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheel")
    for name in ("autoseg", *presets.KINDS):
        shutil.copytree(REPOSITORY / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, copy)
    for stray in ("autoseg/notes.txt", "autoseg/training/old.bak", "planners/README.md"):
        (copy / stray).write_text("this must not get into the wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q", "-w", str(out), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.glob("*.whl")
    return built


def _modules(*, package: bool = False) -> list[Path]:
    """All modules of autoseg; its own `__init__.py`, which belongs to no room, only on demand."""
    return [path for path in sorted(PACKAGE.rglob("*.py")) if package or path != PACKAGE / "__init__.py"]


def _texts() -> list[Path]:
    """Every file of the repository that is written by hand."""
    folders = ("autoseg", "benchmarks", "datasets", "planners", "tests", ".ci")
    files = [path for folder in folders for path in (REPOSITORY / folder).rglob("*") if path.suffix in {".py", ".toml", ".md", ".sh", ""}]
    files += [path for path in REPOSITORY.iterdir() if path.suffix in {".md", ".toml", ".txt"} or path.name == "Makefile"]
    return [path for path in files if path.is_file() and path != Path(__file__).resolve() and "__pycache__" not in path.parts]


def _height(room: str) -> int:
    return ROOMS.index(room) if room in ROOMS else -1  # what is not listed has its own test


def _room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@functools.cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def _rooms_imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, room) of each import of a room, wherever in the module it stands; relative imports are refused."""
    for node in sorted(ast.walk(_parsed(path)), key=lambda node: getattr(node, "lineno", 0)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} a relative import: write out where it comes from"
            names = [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "autoseg" else [node.module or ""]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and isinstance(node.args[0], ast.Constant):
            names = [str(node.args[0].value)]
        for name in names:
            package, _, rest = name.partition(".")
            room = rest.partition(".")[0]
            assert room != "__version__", f"{path}:{node.lineno} the version is in autoseg.version; the package itself is above no room"
            if package == "autoseg" and room:
                yield node.lineno, room


def _libraries(path: Path, *, inside_functions: bool) -> Iterator[tuple[int, str]]:
    """(line, top-level name) of each import that is executed when the module is loaded, or also of those inside functions."""
    todo: list[ast.AST] = [_parsed(path)]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not inside_functions:
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.lineno, node.module.partition(".")[0]
        todo += ast.iter_child_nodes(node)


def _bare_numbers(node: Any, key: str) -> Iterator[str]:
    """Keys of numbers that lack a unit or a source: a second, simpler reading of what `presets` refuses."""
    if isinstance(node, dict) and "value" in node:
        if not (node.get("unit") and node.get("source")) and re.search(r"\d", str(node["value"])) and not isinstance(node["value"], str):
            yield key
    elif isinstance(node, dict):
        for name, child in node.items():
            yield from _bare_numbers(child, f"{key}.{name}")
    elif not isinstance(node, bool | str) and re.search(r"\d", str(node)):
        yield key

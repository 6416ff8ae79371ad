"""The structure of the package: which modules may import which, and unique names."""

import ast
import re
import sys
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

from profilestream.base import files
from profilestream.learn.learners import LEARNERS

PACKAGE = Path(files.__file__).parent.parent
ROOMS = ("base", "capture", "derive", "learn", "serve", "steward")


def _module(file: Path) -> str:
    return ".".join(["profilestream", *file.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")


MODULES = {_module(file): file for file in PACKAGE.rglob("*.py")}


def _imports(file: Path) -> set[str]:
    """Modules that a file imports; `from profilestream.learn import als` imports profilestream.learn.als."""
    imported = set[str]()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            imported |= (members & MODULES.keys()) or {node.module}
    return imported


def test_a_room_imports_only_rooms_before_it() -> None:
    wrong = []
    for module, file in MODULES.items():
        room = module.split(".")[1] if module.count(".") else ""
        for imported in _imports(file):
            other = imported.split(".")[1] if imported.startswith("profilestream.") else ""
            if room in ROOMS and other in ROOMS and other > room:
                wrong.append(f"{module} imports {imported}")
    assert wrong == []


def test_imports_have_no_cycle() -> None:
    graph = {module: _imports(file) & MODULES.keys() for module, file in MODULES.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError with the modules of the cycle


def test_code_on_executors_imports_the_standard_library_numpy_and_pyarrow_only() -> None:
    own = {module for module in MODULES if ".kernels." in module}
    allowed = {*sys.stdlib_module_names, "numpy", "pyarrow"}
    wrong = {
        module: foreign
        for module in own
        if (foreign := {name for name in _imports(MODULES[module]) - own if name.split(".")[0] not in allowed})
    }
    assert wrong == {}


def test_the_code_for_all_learners_names_none_of_them() -> None:
    names = {learner.name for learner in LEARNERS} | {t.name for learner in LEARNERS for t in learner.state_tables}
    files = [file for file in (PACKAGE / "learn").glob("*.py") if file.name not in ("__init__.py", "learners.py")]
    found = {file.name: words for file in files if (words := names & set(re.findall(r"\w+", file.read_text())))}
    assert len(files) > 10 and found == {}


def test_only_the_modules_that_talk_to_mlflow_or_run_inside_it_import_it() -> None:
    users = [file.name for file in MODULES.values() if any(name.split(".")[0] == "mlflow" for name in _imports(file))]
    assert sorted(users) == ["model_registry.py", "published_model.py", "tracking.py"]


def test_arrow_tables_become_frames_in_one_function_only() -> None:
    """createDataFrame loses rows of some Arrow tables: elsewhere it gets plain rows and their schema."""
    calls = [
        (file.name, node)
        for file in MODULES.values()
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "createDataFrame"
    ]
    assert [name for name, call in calls if len(call.args) + len(call.keywords) < 2] == ["session.py"]


def test_file_names_are_unique() -> None:
    paths = defaultdict(list)
    for file in MODULES.values():
        paths[file.name].append(str(file.relative_to(PACKAGE)))
    assert {name: same for name, same in paths.items() if len(same) > 1 and name != "__init__.py"} == {}


def test_public_classes_have_unique_names() -> None:
    modules = defaultdict(list)
    for module, file in MODULES.items():
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                modules[node.name].append(module)
    assert {name: same for name, same in modules.items() if len(same) > 1} == {}

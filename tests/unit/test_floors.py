"""The house: a file imports only from lower floors or from its own room; sizes stay small."""

import ast
from pathlib import Path

import mmard

SRC = Path(mmard.__file__).parent
FLOORS = [
    {"utils", "losses"},
    {"core"},
    {"terms", "attacks", "models", "data"},
    {"methods", "evaluation", "diagnostics"},
    {"runs"},
    {"training", "report"},
    {"api"},
    {"study", "bench"},
    {"cli", "__init__"},
    {"__main__"},
]
FLOOR_OF = {room: i for i, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(SRC.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Rooms that a file imports from."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "mmard":
            names |= {node.module.split(".")[1]} if "." in node.module else {a.name for a in node.names}
        if isinstance(node, ast.Import):
            names |= {a.name.split(".")[1] for a in node.names if a.name.startswith("mmard.")}
    return names & FLOOR_OF.keys()


def test_imports_go_down_or_stay_in_the_room() -> None:
    wrong = [
        f"{path.relative_to(SRC)} imports {other}"
        for path in FILES
        for other in imported(path) - {room(path)}
        if FLOOR_OF[other] >= FLOOR_OF[room(path)]
    ]
    assert wrong == []


def test_only_the_engine_knows_fabric() -> None:
    knows = [p.relative_to(SRC).as_posix() for p in FILES if "lightning_fabric" in p.read_text()]
    assert knows == ["training/engine.py"]


def test_files_and_functions_stay_small() -> None:
    large = []
    for path in FILES:
        text = path.read_text()
        limit = 110 if path.parent.name == "methods" and path.name != "__init__.py" else 350
        if text.count("\n") > limit:
            large.append(path.name)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno and node.end_lineno - node.lineno >= 40:
                large.append(f"{path.name}:{node.name}")
    assert large == []


def test_functions_take_few_parameters() -> None:
    """A command's options are its parameters, and so are those of public functions behind some commands."""
    many = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and room(path) != "cli":
                given = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
                if len([name for name in given if name not in ("self", "cls", "ctx")]) > 8:
                    many.add(f"{path.relative_to(SRC)}:{node.name}")
    assert many <= {
        "api/evaluate.py:evaluate_run",
        "api/evaluate_images.py:evaluate_images",
        "api/export.py:export",
        "api/diagnose.py:diagnose",
        "api/teacher.py:examine",
    }


def test_few_public_names() -> None:
    assert len(mmard.__all__) <= 17


def test_nothing_is_left_over() -> None:
    """Every module is imported, or named, by another, and none puts work off to a later day."""
    trees = {path: ast.parse(path.read_text()) for path in FILES}
    named_by: dict[str, set[Path]] = {}
    for path, tree in trees.items():
        if path.name == "moved.py":  # which names every module that has moved
            continue
        for node in ast.walk(tree):
            found: list[str] = []
            if isinstance(node, ast.ImportFrom) and node.module:
                found = [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
            elif isinstance(node, ast.Import):
                found = [a.name for a in node.names]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found = [node.value]
            for name in found:
                named_by.setdefault(name, set()).add(path)
    modules = {".".join(path.relative_to(SRC.parent).with_suffix("").parts): path for path in FILES}
    unused = [
        name
        for name, path in modules.items()
        if not path.stem.startswith("__") and not named_by.get(name, set()) - {path}
    ]
    assert unused == []
    assert [path.name for path in FILES if "TODO" in path.read_text()] == []

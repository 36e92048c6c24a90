"""The house rules, enforced: arrows between rooms, lazy heavy libraries, sizes, what is forbidden.

A room is a folder or a single file directly under src/scanomaly; the package itself is "scanomaly".
"""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import pytest

REPOSITORY = Path(__file__).parents[1]
SOURCE = REPOSITORY / "src" / "scanomaly"
FILES = sorted(SOURCE.rglob("*.py"))
DOCUMENTS = ("README.md", "docs/architecture.md")

ARROWS: Mapping[str, frozenset[str]] = {
    room: frozenset(others.split())
    for room, others in {
        "errors": "",
        "records": "",
        "maps": "",
        "calibration": "",
        "scanomaly": "",
        "nn": "maps",
        "devices": "errors",
        "files": "errors",
        "questions": "errors",
        "metrics": "questions",
        "config": "errors files",
        "data": "config errors files questions records",
        "backbones": "config errors nn records",
        "training": "config errors files records",
        "methods": "backbones calibration config errors maps nn records training",
        "run_folder": "config errors files scanomaly",
        "checkpoint": "calibration config errors files methods run_folder",
        "inference": (
            "backbones calibration checkpoint config data devices errors maps methods records "
            "run_folder"
        ),
        "panels": "data inference",
        "evaluation": "config data errors inference methods metrics panels",
        "warm_starts": "config errors",
        "fitting": (
            "checkpoint config data errors inference methods run_folder training warm_starts"
        ),
        "prediction": "data errors files inference",
        "figures": "data errors files fitting inference methods records report",
        "vqa": (
            "backbones config data devices errors files metrics nn questions records run_folder "
            "training"
        ),
        "triples": "data errors files inference questions",
        "asking": "config data errors inference questions records triples vqa",
        "report": "errors files metrics questions",
        "presets": "config errors",
        "pretraining": "backbones config data errors files processes records training",
        "ray_cluster": "errors",
        "doctor": "data errors files metrics processes",
        "importing": (
            "backbones checkpoint config data devices errors fitting inference methods presets "
            "run_folder vqa"
        ),
        "processes": "",
        "scoring": (
            "checkpoint config data errors files inference processes ray_cluster run_folder"
        ),
        "bench": (
            "backbones config data errors evaluation files fitting inference metrics presets "
            "processes questions ray_cluster scanomaly vqa warm_starts"
        ),
        "demo": "config data errors evaluation fitting presets",
        "demo_vqa": "asking data demo errors evaluation inference presets triples vqa",
        "cli": (
            "asking backbones bench config data demo demo_vqa doctor errors evaluation figures "
            "fitting importing inference prediction presets pretraining report scanomaly scoring "
            "triples vqa"
        ),
        "__main__": "cli",
    }.items()
}
"""Room -> rooms it may import, whether at the top of a file or inside a function."""

TYPING_ONLY: Mapping[str, frozenset[str]] = {
    "report": frozenset({"asking", "bench", "evaluation", "panels", "vqa"}),
    "scanomaly": frozenset(
        {
            *("asking", "config", "data", "errors", "evaluation", "inference", "presets"),
            *("questions", "records"),
        }
    ),
}
"""Room -> further rooms it may name in annotations, under TYPE_CHECKING."""

LIGHT = (
    *("scanomaly", "calibration", "cli", "config", "doctor", "errors", "files", "metrics"),
    *("bench/breakdown", "bench/comparison", "bench/differences", "bench/findings"),
    *("bench/needs", "bench/tables", "presets"),
    *(
        "questions",
        "data/mivqa",
        "report",
        "backbones/__init__",
        "backbones/weights",
        "data/__init__",
        "data/bmad",
    ),
    *("data/folder", "data/images", "data/listing", "data/manifest", "data/mask_files"),
    *("data/mvtec", "data/phantom", "data/rows", "data/splits", "pretraining/recipe"),
)
"""Modules, and folders with all their files, that no heavy library may be needed to import."""

HEAVY = frozenset(
    {
        *("anomalib", "jinja2", "lightning", "matplotlib", "nibabel", "nilearn", "open_clip"),
        *("pyarrow", "pytorch_lightning", "sklearn", "timm", "torch", "torchvision"),
        "transformers",
    }
)

TOP_LEVEL_HOMES: Mapping[str, tuple[str, ...]] = {
    "lightning": ("training/loop",),
    "timm": ("nn/image_decoder",),
    "typer": (
        "cli/__init__",
        "cli/answers",
        "cli/app",
        "cli/bench",
        "cli/detectors",
        "cli/doctor",
        "cli/importing",
        "cli/language",
        "cli/reports",
        "cli/scoring",
        "cli/simulation",
        "cli/weights",
    ),
    **dict.fromkeys(("anomalib", "huggingface_hub", "jinja2", "matplotlib", "nibabel"), ()),
    **dict.fromkeys(("nilearn", "open_clip", "pyarrow", "ray", "rich", "sklearn"), ()),
    "transformers": (),
}
"""Library -> the files that may import it at their top; everywhere else inside functions."""

COMMAND_LINE_ONLY = frozenset({"rich", "typer"})
FORBIDDEN_NAMES = frozenset({"utils.py", "helpers.py", "misc.py", "common.py"})
FORBIDDEN_LIBRARIES = frozenset(
    {"cloudpickle", "dill", "joblib", "marshal", "pickle", "pytorch_lightning", "shelve"}
)
MAX_FILE_LINES, MAX_FUNCTION_LINES = 420, 60


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module. when: at the top of a file, inside a function, or for types only."""

    target: str
    when: Literal["top", "lazy", "typing"]
    line: int


def name_of(file: Path) -> str:
    """`data/bmad` for src/scanomaly/data/bmad.py."""
    return file.relative_to(SOURCE).with_suffix("").as_posix()


def room_of(file: Path) -> str:
    first = name_of(file).split("/")[0]
    return "scanomaly" if first == "__init__" else first


def imported_room(target: str) -> str | None:
    """The room that a dotted name belongs to; None for another package."""
    package, _, rest = target.partition(".")
    if package != "scanomaly":
        return None
    first = rest.split(".")[0]
    is_room = (SOURCE / first).is_dir() or (SOURCE / f"{first}.py").is_file()
    return first if first and is_room else "scanomaly"


@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


@cache
def imports_of(file: Path) -> tuple[Import, ...]:
    return tuple(_imports(tree_of(file), "top"))


def _imports(node: ast.AST, when: Literal["top", "lazy", "typing"]) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        yield from (Import(alias.name, when, node.lineno) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        module = "." * node.level + (node.module or "")
        yield from (Import(f"{module}.{alias.name}", when, node.lineno) for alias in node.names)
    elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        for child in node.body:
            yield from _imports(child, "typing")
        for child in node.orelse:
            yield from _imports(child, when)
    else:
        inner = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from _imports(child, "lazy" if inner else when)


def where(file: Path, line: int) -> str:
    return f"{file.relative_to(REPOSITORY)}:{line}"


def modules_below(entry: str) -> list[str]:
    """Dotted names of a LIGHT entry: one module, or a folder with all its files."""
    if entry == "scanomaly":
        return ["scanomaly"]
    folder = SOURCE / entry
    files = sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
    dotted = ("scanomaly." + name_of(file).replace("/", ".") for file in files)
    return [name.removesuffix(".__init__") for name in dotted]


def test_every_room_has_its_arrows():
    rooms = {room_of(file) for file in FILES}
    assert rooms - ARROWS.keys() == set(), "new rooms: give each a line in ARROWS"
    assert ARROWS.keys() - rooms == set(), "rooms that are gone: remove their lines from ARROWS"


def test_arrows_point_one_way():
    order = list(graphlib.TopologicalSorter(ARROWS).static_order())  # CycleError if they do not
    assert order[-2:] == ["cli", "__main__"], "nothing else stands above the command line"


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_follow_the_arrows(file: Path):
    room = room_of(file)
    allowed = ARROWS.get(room, frozenset()) | {room}
    typing = allowed | TYPING_ONLY.get(room, frozenset())
    wrong = [
        f"{where(file, found.line)} imports {found.target}"
        for found in imports_of(file)
        if (target := imported_room(found.target)) is not None
        and target not in (typing if found.when == "typing" else allowed)
    ]
    assert not wrong, f"{room} may import {', '.join(sorted(allowed - {room})) or 'no room'}"
    assert not [found for found in imports_of(file) if found.target.startswith(".")], "relative"


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_libraries_are_imported_where_they_belong(file: Path):
    wrong = []
    for found in imports_of(file):
        library = found.target.split(".")[0]
        homes = TOP_LEVEL_HOMES.get(library)
        if found.when == "top" and homes is not None and name_of(file) not in homes:
            wrong.append(f"{where(file, found.line)}: import {library} inside the function")
        if library in FORBIDDEN_LIBRARIES:
            wrong.append(f"{where(file, found.line)}: {library} must not be used")
        if library in COMMAND_LINE_ONLY and room_of(file) != "cli":
            wrong.append(f"{where(file, found.line)}: {library} belongs to the command line")
    assert not wrong


def test_light_modules_load_no_heavy_library():
    modules = [module for entry in LIGHT for module in modules_below(entry)]
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        f"    heavy = sorted(set(sys.modules) & {set(HEAVY)!r})\n"
        "    assert not heavy, f'importing {name} loads {heavy}'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_sizes(file: Path):
    lines = len(file.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_FILE_LINES, f"{lines} lines: make it a folder of the same name"
    long = [
        f"{where(file, node.lineno)} {node.name}: {length} lines"
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]
    assert not long


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_what_must_not_exist(file: Path):
    assert file.name not in FORBIDDEN_NAMES, "name it after what it holds"
    wrong = []
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            if node.args.kwarg is not None:
                wrong.append(f"{where(file, node.lineno)}: **{node.args.kwarg.arg} in a signature")
        elif isinstance(node, ast.Call):
            wrong += [f"{where(file, node.lineno)}: {what}" for what in _bad_calls(node, file)]
    assert not wrong


def _bad_calls(call: ast.Call, file: Path) -> Iterator[str]:
    function = ast.unparse(call.func)
    given = {word.arg: ast.unparse(word.value) for word in call.keywords}
    if function == "print" and room_of(file) != "cli":
        yield "print outside the command line: use logging"
    if function == "torch.load" and given.get("weights_only") != "True":
        yield "torch.load without weights_only=True"
    if given.get("allow_pickle", "False") != "False":
        yield "allow_pickle"


def test_the_checks_see_what_they_look_for():
    code = (
        "import torch\n"
        "if TYPE_CHECKING:\n    import timm\n"
        "def f(**kwargs):\n    from scanomaly.data import bmad\n"
        "torch.load(file)\ntorch.load(file, weights_only=True)\nprint(1)\n"
    )
    tree = ast.parse(code)
    assert [(i.target, i.when) for i in _imports(tree, "top")] == [
        ("torch", "top"),
        ("timm", "typing"),
        ("scanomaly.data.bmad", "lazy"),
    ]
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert [bool(list(_bad_calls(call, SOURCE / "maps.py"))) for call in calls] == [
        True,
        False,
        True,
    ]
    assert imported_room("scanomaly.data.bmad") == "data"
    assert imported_room("scanomaly.__version__") == "scanomaly"
    assert imported_room("torch.nn") is None


def test_every_method_has_its_configuration():
    from scanomaly.config.run import CONFIGS
    from scanomaly.methods import METHODS

    assert METHODS.keys() == CONFIGS.keys()


def file_tree(document: str) -> str:
    """The fenced block of a document that lists the files."""
    text = (REPOSITORY / document).read_text(encoding="utf-8")
    blocks = [block for block in re.findall(r"```\w*\n(.*?)```", text, re.S) if "src/" in block]
    found = [block for block in blocks if block.startswith("src/scanomaly/")]
    assert len(found) == 1, f"{document}: expected one block that begins with src/scanomaly/"
    return found[0]


def listed_paths(tree: str) -> list[str]:
    """Paths of a tree with two blanks a level: `name/` is a folder, words say what it is for."""
    paths: list[str] = []
    parents: list[str] = []
    for line in tree.splitlines():
        matched = re.fullmatch(r"((?:  )*)(\S+)  +\S.*", line)
        assert matched, f"expected a name, two blanks and what it is for, got {line!r}"
        del parents[len(matched[1]) // 2 :]
        paths.append("".join(parents) + matched[2])
        parents.append(matched[2])
    return paths


def test_the_documents_list_every_file():
    tree = file_tree(DOCUMENTS[0])
    assert file_tree(DOCUMENTS[1]) == tree, f"{' and '.join(DOCUMENTS)} show different trees"
    listed = {path for path in listed_paths(tree) if path.endswith(".py")}
    listed = {path for path in listed if path.startswith("src/scanomaly/")}
    present = {file.relative_to(REPOSITORY).as_posix() for file in FILES}
    folders = {path for path in present if path.endswith("__init__.py")}  # the folder's line
    assert listed - present == set(), "files that are gone"
    assert present - folders - listed == set(), "files without a line"


@pytest.mark.parametrize("document", [*DOCUMENTS, "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_between_documents_lead_somewhere(document: str):
    file = REPOSITORY / document
    links = re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", file.read_text(encoding="utf-8"))
    missing = [link for link in links if not (file.parent / link).exists()]
    assert not missing

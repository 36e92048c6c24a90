"""The package as its users meet it: version, public names, `scanomaly --help`, the documents."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

import scanomaly

REPOSITORY = Path(__file__).parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]

HELP_SECONDS = 3.0
"""Of processor time, which does not depend on what else the machine does. The target is 0.7 s on
the clock of an idle machine; one import of torch alone would take some 2 s here."""
NOT_FOR_HELP = frozenset(
    {
        *("PIL", "cv2", "huggingface_hub", "jinja2", "lightning", "matplotlib", "numpy"),
        *("open_clip", "pyarrow", "pydantic", "scipy", "sklearn", "timm", "torch", "torchvision"),
        "transformers",
    }
)


def read(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


def commands(document: str) -> list[str]:
    """Every line of the document's code blocks that begins with `scanomaly `."""
    blocks = re.findall(r"```(?:bash|sh|console)\n(.*?)```", read(document), re.S)
    lines = [line.split(" #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("scanomaly ")]


def test_one_version():
    assert PROJECT["version"] == scanomaly.__version__
    assert yaml.safe_load(read("CITATION.cff"))["version"] == scanomaly.__version__
    assert f"## [{scanomaly.__version__}]" in read("CHANGELOG.md")


def test_the_public_names_are_those_with_a_home():
    assert sorted(scanomaly.__all__) == sorted([*scanomaly._HOMES, "__version__"])
    assert set(dir(scanomaly)) == set(scanomaly.__all__)


def test_type_checkers_and_python_look_in_the_same_homes():
    tree = ast.parse(Path(scanomaly.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    homes = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert homes == scanomaly._HOMES


@pytest.mark.parametrize("name", [name for name in scanomaly.__all__ if name != "__version__"])
def test_public_names_resolve(name: str):
    assert getattr(scanomaly, name) is getattr(import_module(scanomaly._HOMES[name]), name)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = scanomaly.nonsense


def test_importing_the_package_loads_none_of_its_rooms():
    code = "import sys, scanomaly; print([m for m in sys.modules if m.startswith('scanomaly.')])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


def test_help_is_quick_and_loads_nothing_heavy():
    command = shutil.which("scanomaly", path=sysconfig.get_path("scripts"))
    assert command, 'the command is not installed; run pip install -e ".[dev]"'
    before = os.times()
    done = subprocess.run(
        [command, "--help"],
        env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    after = os.times()
    spent = (after.children_user + after.children_system) - (
        before.children_user + before.children_system
    )
    loaded = {name.split(".")[0] for name in re.findall(r"\|\s+([\w.]+)$", done.stderr, re.M)}
    assert "scanomaly" in loaded, "the import profile was not understood"
    assert loaded & NOT_FOR_HELP == set()
    assert "not a medical device" in " ".join(done.stdout.split())
    assert spent < HELP_SECONDS


def test_the_readme_gives_the_test_command_of_ci():
    assert 'pip install -e ".[dev]" && pytest\n' in read("README.md")
    steps = read(".ci/run").splitlines()
    install = next(i for i, step in enumerate(steps) if step.endswith('-e ".[dev]"'))
    assert "pytest" in steps[install:]


def subcommand(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words name, and the words that are left for it."""
    from typer.main import get_command

    from scanomaly.cli import app

    command: Any = get_command(app)
    while words and hasattr(command, "commands"):
        word = words.pop(0)
        if not word.startswith("-"):
            assert word in command.commands, f"there is no verb {word!r}"
            command = command.commands[word]
    return command, words


@pytest.mark.parametrize("line", commands("README.md"))
def test_commands_of_the_readme_parse(line: str):
    command, words = subcommand(shlex.split(line)[1:])
    command.make_context(command.name, words)  # raises for an option or argument it does not know


def test_the_readme_shows_every_verb():
    shown = [" ".join(shlex.split(line)[1:]) for line in commands("README.md")]
    missing = [verb for verb in verbs(subcommand([])[0]) if not any(verb in line for line in shown)]
    assert not missing


def verbs(group: Any, before: str = "") -> list[str]:
    """Such as `fit` and `weights list`."""
    found: list[str] = []
    for name, command in group.commands.items():
        inner = verbs(command, f"{name} ") if hasattr(command, "commands") else []
        found += inner or [before + name]
    return found


def test_every_preset_of_the_readme_exists():
    from scanomaly.bench.tables import TABLES
    from scanomaly.presets import PRESETS

    named = set(re.findall(r"\b(?:qfae|autoencoder)-[a-z0-9-]+\b", read("README.md")))
    assert named & PRESETS.keys()
    assert named - PRESETS.keys() - TABLES.keys() == set()

"""The house: what may import what, and that every command answers at once."""

import ast
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .conftest import ROOT

OURS = ("datasets_cfg", "train", "convert", "inference", "tui")
MAY_IMPORT = {
    "datasets_cfg": set(),
    "train": {"datasets_cfg"},
    "convert": {"datasets_cfg"},
    "inference": set(),
    "tui": {"inference"},
}
HEAVY = {"torch", "transformers", "datasets", "llama_cpp"}


def imported(file: Path) -> set[str]:
    """The top-level packages that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add((node.module or "").partition(".")[0])
    return names


@pytest.mark.parametrize("package", OURS)
def test_imports_run_one_way(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        assert imported(file) & set(OURS) - {package} <= MAY_IMPORT[package], file
        if package in ("inference", "tui"):
            assert not imported(file) & (HEAVY - {"llama_cpp"}), file


@pytest.mark.parametrize("module", ["datasets_cfg", "convert", "tui", "train.tiny_base", "train.plan"])
def test_help_is_quick_and_light(module):
    code = (
        "import runpy, sys\n"
        f"sys.argv = [{module!r}, '--help']\n"
        "try:\n"
        f"    runpy.run_module({module!r}, run_name='__main__', alter_sys=False)\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        f"print('heavy:', sorted({HEAVY!r} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "usage:" in done.stdout
    assert "heavy: []" in done.stdout

    def seconds() -> float:
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, check=True)
        return time.perf_counter() - begun

    # The best of a few, as other programs may have the processor for a moment.
    assert min(seconds() for _ in range(5)) < 0.5


def test_every_package_is_installed_with_its_files():
    from configparser import ConfigParser

    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    found = {
        ".".join(file.parent.relative_to(ROOT).parts)
        for package in OURS
        for file in (ROOT / package).rglob("__init__.py")
    }
    assert listed == found


def test_the_chat_needs_little_and_says_what():
    """Without PyTorch, and with at most eight packages of others."""
    from configparser import ConfigParser

    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = [config["options"]["install_requires"], config["options.extras_require"]["tui"]]
    declared = {re.split(r"[\[ <>=]", line)[0].lower() for line in "\n".join(lines).split("\n") if line.strip()}
    assert len(declared) <= 8
    files = [file for package in ("inference", "tui") for file in (ROOT / package).rglob("*.py")]
    others = set().union(*map(imported, files)) - set(sys.stdlib_module_names) - set(OURS)
    named = {"yaml": "pyyaml", "llama_cpp": "llama-cpp-python", "markdown_it": "markdown-it-py"}
    assert {named.get(module, module) for module in others} == declared

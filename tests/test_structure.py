"""The house and its rooms: what packages are called, what they export, and who may import what from whom."""
from __future__ import annotations

import ast
import configparser
import importlib
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import fxgrow

ROOT = Path(__file__).resolve().parents[1]
TREES = {"fxgrow": "fxgrow", "passes": "fxgrow.passes", "zoo": "fxgrow.zoo", "experiments": "fxgrow.experiments"}
FLOORS = ("fxgrow", "fxgrow.experiments")  # packages of rooms: each module beside their rooms is a room of its own
WITHIN = {"fxgrow.axis.rules": "fxgrow.axis"}  # a folder that is no room: its files belong to the room that it is in


def modules_in(folder: str, name: str) -> dict[str, Path]:
    """Return the file of each module below a folder, by the module's full name."""
    found = {}
    for file in sorted((ROOT / folder).rglob("*.py")):
        parts = file.relative_to(ROOT / folder).with_suffix("").parts
        found[".".join([name, *parts]).removesuffix(".__init__")] = file
    return found


MODULES = {name: file for tree in TREES.items() for name, file in modules_in(*tree).items()}
PACKAGES = {name: file.parent for name, file in MODULES.items() if file.name == "__init__.py"}


def test_the_packages_are_found():
    assert {*TREES.values()} < {*PACKAGES} and len(PACKAGES) > 25 and len(MODULES) > 200


# --- packages -----------------------------------------------------------------------------------------------------------


def test_no_package_hides_a_name_that_fxgrow_exports():
    assert [name for name in PACKAGES if name.rpartition(".")[2] in fxgrow.__all__] == []


@cache
def setup_cfg() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config


def test_setup_cfg_lists_the_folders_that_are_packages():
    assert sorted(setup_cfg()["options"]["packages"].split()) == sorted(PACKAGES)
    places = dict(re.findall(r"(\S+) = (\S+)", setup_cfg()["options"]["package_dir"]))
    assert places == {name: folder for folder, name in TREES.items()}


def test_setup_cfg_packs_every_other_file_of_a_package():
    packed = {file for package, globs in setup_cfg()["options.package_data"].items()
              for glob in globs.split(",") for file in PACKAGES[package].glob(glob.strip())}
    present = {file for folder in TREES for file in (ROOT / folder).rglob("*")
               if file.is_file() and file.suffix != ".py" and "__pycache__" not in file.parts}
    assert packed == present


def test_the_top_of_fxgrow_has_a_dozen_files_at_most():
    assert len([file for file in (ROOT / "fxgrow").iterdir() if file.is_file()]) <= 12


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_says_in_two_sentences_what_lives_there_and_what_does_not(package):
    told = ast.get_docstring(ast.parse(MODULES[package].read_text(encoding="utf-8"))) or ""
    assert len(re.findall(r"\w\W*[.!?](?=\s|$)", told)) >= 2, f"{MODULES[package]}:1: {told!r}"


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_exports_what_it_has_and_nothing_that_is_called_like_a_module_of_it(package):
    exported = exports(package)
    assert [name for name in exported if not hasattr(importlib.import_module(package), name)] == []
    beside = {name.rpartition(".")[2] for name in MODULES if name.rpartition(".")[0] == package}
    assert sorted(exported & beside) == []


# --- imports ------------------------------------------------------------------------------------------------------------


class Import(NamedTuple):
    """One name that a file takes from a module of ours, or a whole module, which has no name."""
    place: str
    importer: str
    module: str
    name: str | None

    def __str__(self) -> str:
        return f"{self.place}: {self.name or 'all'} of {self.module}"


def package_of(module: str) -> str:
    return module if module in PACKAGES else module.rpartition(".")[0]


def room_of(module: str) -> str:
    """Return the package whose `__init__` says what others may take from a module, or the module where it stands alone."""
    package = WITHIN.get(package_of(module), package_of(module))
    return module if package in FLOORS else package


@cache
def exports(room: str) -> set[str]:
    return {*getattr(importlib.import_module(room), "__all__", ())}


@cache
def imports() -> list[Import]:
    """Return all imports from our own modules, those inside functions and for type checkers included."""
    found: list[Import] = []
    for importer, file in MODULES.items():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, (ast.Import, ast.ImportFrom)):
                continue
            place = f"{file.relative_to(ROOT)}:{node.lineno}"
            if isinstance(node, ast.Import):
                taken = [(alias.name, None) for alias in node.names]
            else:
                taken = [(source_of(importer, node), alias.name) for alias in node.names]
            found += [Import(place, importer, *what) for what in taken if what[0].split(".")[0] == "fxgrow"]
    return found


def none(wrong: list[Import]) -> None:
    assert not wrong, "\n".join(map(str, ["", *wrong]))


def source_of(importer: str, node: ast.ImportFrom) -> str:
    """Return the full name of the module that a `from` names, also where it begins with dots."""
    if not node.level:
        return node.module or ""
    above = [*package_of(importer).split("."), ""][:-node.level]
    return ".".join([*above, *filter(None, [node.module])])


def allowed(one: Import) -> bool:
    """Say whether a file takes what lies in its own room, or what another room exports."""
    if f"{one.module}.{one.name}" in MODULES and one.name not in exports(one.module):
        one = one._replace(module=f"{one.module}.{one.name}", name=None)
    room = room_of(one.module)
    if f"{room_of(one.importer)}.".startswith(f"{room}."):  # a room below another is in it, too
        return True
    if one.name is None:
        return one.module in (room, "fxgrow") or room not in PACKAGES
    return one.module == room and (room not in PACKAGES or one.name in exports(room))


def test_another_room_gives_only_what_it_exports():
    none([one for one in imports() if not allowed(one)])


def private(one: Import) -> bool:
    words = [*one.module.split("."), one.name or ""]
    return any(word.startswith("_") and not word.endswith("__") for word in words)


def test_nothing_private_is_taken_from_another_package():
    none([one for one in imports() if private(one) and package_of(one.module) != package_of(one.importer)])

"""Files and functions stay small, and the tree is as pyproject.toml says."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.platform.source_tree import PACKAGES, ROOT, project_files, python_files

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70
# path or path:function -> why it may be longer
EXCEPTIONS: dict[str, str] = {}

# Put together here so that this file does not match itself.
MACHINE_PATHS = re.compile("|".join(["/" + top + "/[a-z]" for top in ("home", "root", "work", "Users")]))
REGISTRY_HOSTS = re.compile(r"pypi\.(?=org)|pythonhosted\.(?=org)|(extra-)?index-url *[=:]|/simple/?[\"']")
BINARY = {".gz", ".png"}


def size_faults(path: Path, source: str) -> Iterator[str]:
    lines = len(source.splitlines())
    if lines > FILE_LINES_MAX and str(path) not in EXCEPTIONS:
        yield f"{path} has {lines} lines, {FILE_LINES_MAX} at most"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES_MAX and f"{path}:{node.name}" not in EXCEPTIONS:
                yield f"{path}:{node.name} has {length} lines, {FUNCTION_LINES_MAX} at most"


def test_no_file_and_no_function_is_too_long():
    faults = [fault for path in python_files() for fault in size_faults(path, (ROOT / path).read_text("utf-8"))]

    assert faults == []


@pytest.mark.parametrize("source", ["\n" * 401, "def f():\n" + "    1\n" * 70])
def test_what_is_too_long_is_found(source):
    assert len(list(size_faults(Path("x.py"), source))) == 1


def text_files() -> list[Path]:
    return [path for path in project_files() if path.suffix not in BINARY]


def test_no_file_names_a_path_of_some_machine_or_the_host_of_a_registry():
    faults = []
    for path in text_files():
        text = (ROOT / path).read_text(encoding="utf-8", errors="replace")
        faults += [f"{path}: {m.group()}" for m in (*MACHINE_PATHS.finditer(text), *REGISTRY_HOSTS.finditer(text))]

    assert faults == []


@pytest.mark.parametrize("text", ["/ho" + "me/ada/x", "https://py" + "pi.org/", "--index-url" + "=x"])
def test_a_machine_path_or_registry_host_is_found(text):
    assert MACHINE_PATHS.search(text) or REGISTRY_HOSTS.search(text)


def test_there_is_no_init_file_under_tests():
    assert [path for path in project_files() if path.parts[0] == "tests" and path.name == "__init__.py"] == []


def test_test_files_have_names_of_their_own():
    names = [path.name for path in python_files("tests") if path.name.startswith("test_")]

    assert sorted(names) == sorted(set(names))


def test_every_folder_with_code_is_a_listed_package():
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    listed = configuration["tool"]["setuptools"]["packages"]
    found = {".".join(path.parent.parts) for path in python_files(*PACKAGES)}

    assert sorted(listed) == sorted(found)


def test_every_package_says_in_one_line_what_it_is():
    for name in sorted({path.parent for path in python_files(*PACKAGES)}):
        docstring = ast.get_docstring(ast.parse((ROOT / name / "__init__.py").read_text("utf-8")))

        assert docstring, name


def test_every_ignored_lint_rule_has_its_reason():
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    section = text[text.index("[tool.ruff.lint]") : text.index("[tool.ruff.lint.pydocstyle]")]
    bare = [line for line in section.splitlines() if re.match(r'\s+"[A-Z]+\d*",\s*$', line)]

    assert bare == []


def test_the_lock_pins_exact_versions_and_names_no_address():
    lines = (ROOT / "requirements.lock").read_text("utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]

    assert len(pins) > 40
    assert [pin for pin in pins if not re.fullmatch(r"[A-Za-z0-9_.\-]+==[A-Za-z0-9_.\-]+", pin)] == []


def test_the_check_of_the_project_is_the_command_that_the_readme_names():
    assert "make test" in (ROOT / ".ci" / "run").read_text("utf-8")
    assert "make test" in (ROOT / "README.md").read_text("utf-8")

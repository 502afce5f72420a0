"""The files of this project as the house tests see them: what git tracks or would track."""

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("adapters", "bus", "domain", "ledger", "projections", "simulations")


@cache
def project_files() -> tuple[Path, ...]:
    """All files that belong to the project, relative to its root; without git, all but what starts with a dot."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode == 0 and listing.stdout:
        candidates = [Path(line) for line in listing.stdout.splitlines()]
    else:
        candidates = [path.relative_to(ROOT) for path in ROOT.rglob("*")]
        candidates = [path for path in candidates if not any(part.startswith(".") for part in path.parts)]
    return tuple(sorted(path for path in candidates if (ROOT / path).is_file()))


def python_files(*tops: str) -> list[Path]:
    """The Python files below the given top folders (all when none is given)."""
    return [path for path in project_files() if path.suffix == ".py" and (not tops or path.parts[0] in tops)]


def imported_modules(source: str) -> Iterator[str]:
    """Every module name that `source` imports, wherever in the file the import stands."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module
            case ast.ImportFrom(level=level) if level:
                yield "." * level
            case _:
                continue

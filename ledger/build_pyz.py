"""Build the auditors' checker as one file: `python -m ledger.build_pyz [tally-verify.pyz]`.

It holds this package and nothing else; whoever runs it needs Python 3.11 and `cryptography`. The same source gives the
same bytes: names sorted, times fixed, no compression.
"""

from __future__ import annotations

import io
import stat
import sys
import zipfile
from pathlib import Path
from typing import Final

SHEBANG: Final = b"#!/usr/bin/env python3\n"
MAIN: Final = b"import sys\n\nfrom ledger.cli import main\n\nif __name__ == '__main__':\n    sys.exit(main())\n"
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)


def build(target: Path) -> Path:
    """Write the archive; returns its path."""
    package = Path(__file__).parent
    contents = {f"ledger/{path.name}": path.read_bytes() for path in sorted(package.glob("*.py"))}
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for name, data in {"__main__.py": MAIN, **contents}.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), data)
    target.write_bytes(SHEBANG + content.getvalue())
    target.chmod(target.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    return target


def main() -> int:
    """Build where the one argument says."""
    target = build(Path(sys.argv[1] if len(sys.argv) > 1 else "tally-verify.pyz"))
    sys.stdout.write(f"{target}: {target.stat().st_size} bytes\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

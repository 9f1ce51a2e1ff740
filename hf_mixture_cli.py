"""Console script `hf-mixture`.

`import hf_mixture` imports peft, which takes seconds, and fails where the installed versions do not fit. `--help` and
`doctor` must answer at once, and in such an environment too; so this module makes the package importable without
running its `__init__.py`, and `hf_mixture.cli.main` runs it before a subcommand that needs it.
"""

from __future__ import annotations

import importlib.util
import sys


def entry_point() -> None:
    """Run `hf-mixture` and exit."""
    spec = importlib.util.find_spec("hf_mixture")
    sys.modules["hf_mixture"] = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    from hf_mixture.cli.main import main

    sys.exit(main())


if __name__ == "__main__":
    entry_point()

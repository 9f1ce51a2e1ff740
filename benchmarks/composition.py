"""Every two changes of one sparse model, in either order: do they work together, or is the second refused?

Writes `results/composition.json`, from which the README takes its table. `tests/matrix` compares it with what it sees.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from common import write
from tqdm import tqdm


SUPPORT = Path(__file__).parents[1] / "tests" / "support"


def main() -> None:
    sys.path.insert(0, str(SUPPORT))
    from composition import all_pairs, make_base, observe

    rows = []
    with tempfile.TemporaryDirectory() as place:
        base = make_base(Path(place, "base"))
        for first, second in tqdm(all_pairs(), desc="pairs"):
            found = observe((first, second), base, Path(place, f"{first}-{second}"))
            rows.append({"first": first, "second": second, **found})
        worker = [str(SUPPORT / "composition_on_two.py"), place]
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        subprocess.run([sys.executable, *launcher, *worker], check=True)
        rows += json.loads(Path(place, "rows.json").read_text(encoding="utf-8"))
    write("composition", {"rows": rows})


if __name__ == "__main__":
    main()

"""What `import hf_mixture` adds to the start of a process that imports torch, transformers and peft anyway."""

from __future__ import annotations

import json
import subprocess
import sys

from common import print_table, summarise, write
from tqdm import trange


ROUNDS = 9
CODE = """
import json, time

start = time.perf_counter()
import torch, transformers, peft

stack = time.perf_counter()
import hf_mixture

print(json.dumps([stack - start, time.perf_counter() - stack]))
"""
LIMIT_SECONDS = 0.5


def main() -> None:
    samples = []
    # The first process fills the cache of the file system.
    for turn in trange(ROUNDS + 1, desc="processes"):
        done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
        if turn:
            samples.append(json.loads(done.stdout))
    names = ("import torch, transformers, peft", "import hf_mixture, after that")
    seconds = {name: summarise(column) for name, column in zip(names, zip(*samples, strict=True), strict=True)}
    print_table(
        ["step", "median ms", "quartiles"],
        [
            [name, f"{1e3 * row['median']:.0f}", f"{1e3 * row['quartile_1']:.0f} to {1e3 * row['quartile_3']:.0f}"]
            for name, row in seconds.items()
        ],
    )
    ratio = summarise([added / stack for stack, added in samples])
    write(
        "import",
        {"seconds": seconds, "added / stack": ratio, "limit_seconds": LIMIT_SECONDS, "rounds": ROUNDS},
    )


if __name__ == "__main__":
    main()

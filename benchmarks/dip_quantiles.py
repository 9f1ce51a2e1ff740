"""Simulates the 95 % quantiles of sqrt(n) * dip of uniform samples, the table of `hf_mixture/data/clustering/dip.py`.

    python benchmarks/dip_quantiles.py [--draws 20000]

Samples of more than 500 values get a tenth of the draws.
"""

from __future__ import annotations

import argparse

import numpy as np
from tqdm import tqdm

from hf_mixture.data.clustering.dip import NUM_DRAWS, dip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=20_000)
    draws = parser.parse_args().draws
    for size in NUM_DRAWS:
        rng = np.random.default_rng(size)
        count = draws if size <= 500 else draws // 10
        found = [dip(rng.random(size), np.ones(size)) for _ in tqdm(range(count), desc=str(size))]
        print(f"n = {size}: {np.quantile(np.sqrt(size) * np.array(found), 0.95):.4f}")


if __name__ == "__main__":
    main()

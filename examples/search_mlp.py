"""A grid of 5×5×5×5×5 runs: epochs, batch size, learning rate, hidden width and latent size of an MLP VAE.

    python examples/search_mlp.py             # says how long all 3,125 would take, and begins
    python examples/search_mlp.py --runs 20   # 20 of them, in a random order; start it again for more

Stop it when you like: started again, it goes on. Started twice, two processes share the runs.
"""

import argparse

from vaekit.train import digits
from vaekit.train.search import search


def main() -> None:
    """Search, and print the best."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, help="how many; the whole grid where left out")
    parser.add_argument("--out", default="runs/search_mlp", help="folder of the search")
    parser.add_argument("--tiny", action="store_true", help="two runs on few images")
    given = parser.parse_args()
    (x, _), (val, _) = digits()
    if given.tiny:
        x, val, given.runs = x[:200], val[:50], 2

    space = {
        "epochs": [5, 10, 20, 40, 80],
        "batch_size": [16, 32, 64, 128, 256],
        "lr": [1e-4, 3e-4, 1e-3, 3e-3, 1e-2],
        "hidden": [(32,), (64,), (128,), (256,), (512,)],
        "latent": [2, 4, 8, 16, 32],
    }
    found = search(space, "mlp", x, val, runs=given.runs, output_dir=given.out, resume_runs=False)
    print(f"best: -ELBO {found.value:.2f} nats with {dict(found.params)}")
    print(f"its model: vaekit.load({str(found.folder)!r})")


if __name__ == "__main__":
    main()

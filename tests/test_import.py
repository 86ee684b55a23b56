"""`import vaekit` is quick and quiet."""

import subprocess
import sys

HEAVY = (
    "torchvision",
    "timm",
    "lpips",
    "accelerate",
    "matplotlib",
    "sklearn",
    "huggingface_hub",
    "zuko",
    "jsonargparse",
)


def test_import_brings_no_heavy_package_and_does_nothing():
    code = (
        "import sys, torch\nrng, threads = torch.random.get_rng_state(), torch.get_num_threads()\nbefore = set(sys.modules)\n"
        "import vaekit\n"
        f"heavy = [m for m in {HEAVY!r} if m in set(sys.modules) - before]\n"
        "assert not heavy, heavy\n"
        "assert torch.equal(rng, torch.random.get_rng_state()) and threads == torch.get_num_threads()\n"
        "assert not [m for m in sys.modules if m.startswith('vaekit.') and m.split('.')[1] in ('train', 'cli', 'testing')]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stdout and not done.stderr, done.stderr


def test_import_takes_at_most_three_tenths_of_a_second_more_than_torch():
    """The time of vaekit's own imports, as -X importtime has it: what comes in under torch does not count."""
    best = min(_own_seconds() for _ in range(3))
    assert best <= 0.3, f"import vaekit takes {best:.2f} s beyond import torch"


def _own_seconds() -> float:
    code = "import torch; import vaekit"
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, check=True)
    rows = [line.split("|") for line in done.stderr.splitlines() if line.startswith("import time:")]
    (total,) = [int(row[1]) for row in rows if row[2].strip() == "vaekit"]
    return total / 1e6


def test_the_trainer_is_found_when_asked_for():
    import vaekit

    assert vaekit.Trainer.__name__ == "Trainer"

"""Peak memory and time of compressing a VGG16, the largest of the usual checkpoints.

Bar: beyond what importing torch takes, at most twice the checkpoint.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from common import print_bar, print_table, run_python

MAKE = """
import torch, torchvision
from safetensors.torch import save_file
torch.manual_seed(0)
state = torchvision.models.vgg16(weights=None).state_dict()
torch.save(state, {stem!r} + ".pt")
save_file(state, {stem!r} + ".safetensors")
"""

COMPRESS = """
from alds_cli import api
done = api.compress({source!r}, ratio={ratio!r}, output={target!r})
result = {{"seconds": dict(done.report.seconds)}}
"""

BAR = 2.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ratios", nargs="+", default=["0.5", "0.8"])
    parser.add_argument("--formats", nargs="+", default=["pt", "safetensors"])
    options = parser.parse_args()
    torch_alone = run_python("import torch\n")["peak"]
    library = run_python("import torch\nfrom alds_cli import api\n")["peak"]
    rows, worst = [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        stem = str(Path(folder, "vgg16"))
        run_python(MAKE.format(stem=stem))
        for form in options.formats:
            source = Path(f"{stem}.{form}")
            for number, ratio in enumerate(options.ratios):
                code = COMPRESS.format(
                    source=str(source), ratio=ratio, target=str(Path(folder, f"small.{form}"))
                )
                cache = str(Path(folder, f"cache-{form}-{number}"))
                found = run_python(code, ALDS_CACHE_DIR=cache)
                times = (found["peak"] - torch_alone) / source.stat().st_size
                worst = max(worst, times)
                rows.append(
                    [
                        f".{form} at {ratio}",
                        f"{found['peak'] / 1e6:.0f}",
                        f"{(found['peak'] - torch_alone) / 1e6:.0f}",
                        f"{times:.2f}",
                        f"{sum(found['seconds'].values()):.1f}",
                        " ".join(f"{k} {v:.1f}" for k, v in found["seconds"].items()),
                    ]
                )
        size = Path(f"{stem}.pt").stat().st_size
    print(
        f"checkpoint {size / 1e6:.0f} MB; importing torch {torch_alone / 1e6:.0f} MB, "
        f"and this library {library / 1e6:.0f} MB"
    )
    print_table(["VGG16", "peak MB", "beyond torch", "times file", "s", "by stage"], rows)
    print_bar(f"at most {BAR:g} times the file beyond importing torch", worst <= BAR)


if __name__ == "__main__":
    main()

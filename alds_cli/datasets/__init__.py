"""Sets of labelled images, opened from a data spec, and their preprocessing and batching."""

from __future__ import annotations

from alds_cli.datasets.augmentation import AUGMENTATIONS, choose_augmentation
from alds_cli.datasets.batching import Batch, Batches, ImageBatch, require_moderate
from alds_cli.datasets.classes import (
    assign_classes,
    check_labels,
    read_classes,
    tell,
)
from alds_cli.datasets.division import PARTS, Part, Parts, divided_parts, drawn_apart, part_of
from alds_cli.datasets.images import (
    IGNORED,
    ImageFiles,
    LabelledImages,
    MaskedImages,
    Split,
    TensorImages,
)
from alds_cli.datasets.preprocessing import PRESETS, parse_preprocessing
from alds_cli.datasets.sources import (
    DATASET_FORMS,
    open_dataset,
    opened,
    tensor_files,
)
from alds_cli.datasets.texts import Reading, context_of, is_text, opened_samples
from alds_cli.datasets.token_blocks import Samples, TokenBatches, TokenBlocks, batched, noun_of

__all__ = [
    "AUGMENTATIONS",
    "DATASET_FORMS",
    "IGNORED",
    "PARTS",
    "PRESETS",
    "Batch",
    "Batches",
    "ImageBatch",
    "ImageFiles",
    "LabelledImages",
    "MaskedImages",
    "Part",
    "Parts",
    "Reading",
    "Samples",
    "Split",
    "TensorImages",
    "TokenBatches",
    "TokenBlocks",
    "assign_classes",
    "batched",
    "check_labels",
    "choose_augmentation",
    "context_of",
    "divided_parts",
    "drawn_apart",
    "is_text",
    "noun_of",
    "open_dataset",
    "opened",
    "opened_samples",
    "parse_preprocessing",
    "part_of",
    "read_classes",
    "require_moderate",
    "tell",
    "tensor_files",
]

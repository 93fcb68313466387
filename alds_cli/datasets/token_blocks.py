"""Texts as blocks of tokens, and batches of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import torch
from torch import Tensor

from alds_cli.datasets.batching import Batches, batch_sizes
from alds_cli.datasets.images import LabelledImages
from alds_cli.errors import DataError, OptionError
from alds_cli.inputs import InputSpec, InputTensor
from alds_cli.records import Fingerprint, Preprocessing
from alds_cli.runtime.distributed import ALONE, World
from alds_cli.tracing.tokens import Tokens

TOKENS_TOGETHER = 2**11
"""The most tokens in a batch, at least one block's: every layer has features for each of them."""


class TokenBlocks:
    """Texts of one length in tokens, some of which may be padding.

    Attributes:
        name: the spec that they were opened from, for messages.
        ids: int64 (N, length).
        real: bool (N, length), false at padding; None where there is none.
        vocabulary: how many different tokens there can be.

    Raises:
        DataError: there are none, or numbers of tokens are negative.
    """

    labelled = False

    def __init__(
        self, name: str, ids: Tensor, real: Tensor | None = None, vocabulary: int = 0
    ) -> None:
        if ids.numel() == 0:
            raise DataError(f"{name} holds no text", tip="name a file with some")
        if real is not None and not bool(real.any(1).all()):
            raise DataError(
                f"{name} has a text that is nothing but padding",
                tip="leave it out, or set its attention_mask to 1 where its tokens are",
            )
        if int(ids.min()) < 0:
            raise DataError(
                f"{name} has the token {int(ids.min())}", tip="tokens are numbered from 0"
            )
        self.name = name
        self.ids = ids
        self.real = None if real is None or bool(real.all()) else real
        self.vocabulary = max(vocabulary, int(ids.max()) + 1)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def inputs(self) -> InputSpec:
        """What a network is called with for one block without padding."""
        tokens = InputTensor((1, self.ids.shape[1]), "int64", self.vocabulary)
        return InputSpec(((None, tokens),))

    def subset(self, indices: Tensor) -> TokenBlocks:
        """Return the blocks at `indices` (n,), n ≥ 1, in that order."""
        real = None if self.real is None else self.real[indices]
        return TokenBlocks(self.name, self.ids[indices], real, self.vocabulary)

    def fingerprint(self) -> Fingerprint:
        """Return SHA-256 digests of the tokens, and of labels, which there are none of."""
        digest = hashlib.sha256(str(tuple(self.ids.shape)).encode())
        digest.update(self.ids.contiguous().numpy().data)
        if self.real is not None:
            digest.update(self.real.contiguous().numpy().data)
        return Fingerprint(digest.hexdigest(), hashlib.sha256().hexdigest())


class TokenBatches:
    """An iterable of batches of texts, each with labels of -1, as there are none.

    A batch is as long as its longest text. Without a generator every text comes once, in the order
    of the set; with one, every iteration shuffles them anew. Of a job of several processes, each
    gets its part of every batch.

    Args:
        dataset: the texts.
        batch_size: blocks in a batch.
        most_tokens: how many tokens a batch may have, unless it is one block; None sets no limit.
        generator: shuffles the texts.
        first: the batch to begin with; those before it are left out, but counted by `len`.
        world: the processes among which every batch is divided. A last batch of fewer texts joins
            the one before.

    Raises:
        OptionError: the batch size is not positive.
    """

    def __init__(
        self,
        dataset: TokenBlocks,
        *,
        batch_size: int,
        most_tokens: int | None = TOKENS_TOGETHER,
        generator: torch.Generator | None = None,
        first: int = 0,
        world: World = ALONE,
    ) -> None:
        if batch_size < 1:
            raise OptionError("a batch has at least one block of tokens")
        self.dataset = dataset
        self._generator, self._first, self._world = generator, first, world
        if most_tokens is not None:
            batch_size = min(batch_size, max(1, most_tokens // dataset.ids.shape[1]))
        self.sizes = batch_sizes(len(dataset), batch_size, world.size)

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[tuple[Tokens, Tensor]]:
        order = torch.arange(len(self.dataset))
        if self._generator is not None:
            order = torch.randperm(len(order), generator=self._generator)
        for indices in torch.split(order, self.sizes)[self._first :]:
            found = self._trimmed(indices)[self._world.part(len(indices))]
            yield found, torch.full((len(found),), -1)

    def _trimmed(self, indices: Tensor) -> Tokens:
        """Return the texts of a batch, without what is padding behind all of them."""
        ids = self.dataset.ids[indices]
        if self.dataset.real is None:
            return Tokens(ids)
        real = self.dataset.real[indices]
        longest = int(real.any(0).nonzero().max()) + 1
        return Tokens(ids[:, :longest], real[:, :longest])

    def fingerprint(self) -> str | None:
        """Return a SHA-256 digest of what the batches are made of; None if it is random."""
        if self._generator is not None:
            return None
        content = [self.dataset.fingerprint().images, self.sizes]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


Samples = LabelledImages | TokenBlocks
"""What a network can be shown: images or texts."""


def noun_of(samples: Samples) -> str:
    """Return what several samples are called in messages."""
    return "texts" if isinstance(samples, TokenBlocks) else "images"


def batched(
    samples: Samples, preprocessing: Preprocessing | None, *, batch_size: int, workers: int = 0
) -> Batches | TokenBatches:
    """Return samples in batches, in their order.

    Args:
        samples: images or texts.
        preprocessing: turns images into the network's input; texts need none.
        batch_size: samples in a batch; of texts there may be fewer.
        workers: number of threads that decode image files.

    Raises:
        DataError: the images and the preprocessing do not go together.
    """
    if isinstance(samples, TokenBlocks):
        return TokenBatches(samples, batch_size=batch_size)
    assert preprocessing is not None  # noqa: S101 - images come with it
    return Batches(samples, preprocessing, batch_size=batch_size, workers=workers)

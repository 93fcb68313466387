"""One run of a sweep: compress, retrain where asked, evaluate."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from alds_cli.checkpoint import artefact_size, hash_tensors
from alds_cli.checkpoint.run_folder import RunFolder, RunKey
from alds_cli.compression.session import compress_networks
from alds_cli.datasets import Batches, LabelledImages
from alds_cli.errors import AldsError, ContractError
from alds_cli.evaluation import measure_latency
from alds_cli.evaluation.models import Measured, evaluate
from alds_cli.network.networks import Network
from alds_cli.network.opening import write_network
from alds_cli.network.verification import verify
from alds_cli.options.compress_options import CompressOptions
from alds_cli.options.evaluate_options import EvaluateOptions
from alds_cli.options.retrain_options import RetrainOptions
from alds_cli.options.sweep_options import SweepOptions
from alds_cli.options.training_options import RetrainSettings
from alds_cli.records import (
    CompressionReport,
    Latency,
    Preprocessing,
    SweepBaseline,
    SweepRecord,
)
from alds_cli.retraining.training_run import retrain
from alds_cli.runtime.devices import Clock, pick_device
from alds_cli.sweeping import RETRAINING
from alds_cli.sweeping.method_specs import MethodSpec


@dataclass(frozen=True, slots=True)
class SweepRunner:
    """Everything that the runs of a sweep have in common.

    Attributes:
        network: the dense network.
        images: the images to evaluate on.
        training: the images to retrain on, and that methods look at; None where no run needs any.
        specs: the methods, by their text.
        retraining: hyperparameters, except epochs and seed.
        preprocessing: how an image becomes the network's input.
        artefacts: the folder to keep networks in, if they are kept.
        options: what was asked of the sweep.
    """

    network: Network
    images: LabelledImages
    training: LabelledImages | None
    specs: Mapping[str, MethodSpec]
    retraining: RetrainSettings
    preprocessing: Preprocessing
    artefacts: RunFolder | None
    options: SweepOptions

    def detached(self) -> SweepRunner:
        """Return a runner that other processes can take: nothing is opened twice, or watched."""
        options = replace(
            self.options,
            model=self.network.name,
            data="",
            train_data=None,
            watcher=None,
            progress=None,
        )
        if options.device is not None and options.device.startswith("cuda"):
            options = replace(options, device="cuda")  # the one that the process is given
        kept = self.artefacts and RunFolder(self.artefacts.path.absolute())
        return replace(self, options=options, artefacts=kept)

    @property
    def weights_hash(self) -> str:
        """The hash of all the network's tensors."""
        return hash_tensors(self.network.module.state_dict())

    def baseline(self) -> SweepBaseline:
        """Evaluate the network before compression."""
        network = self.network
        measured = self._measured(network)
        assert measured.quality is not None  # noqa: S101 - a sweep's images have labels
        latency, _ = self._times(network, Clock())
        return SweepBaseline(
            model=Path(network.name).name,
            architecture=str(network.architecture or "unknown"),
            weights_hash=self.weights_hash,
            params=measured.footprint.params,
            macs=measured.footprint.macs,
            bytes=_size(network),
            data=self.images.name,
            quality=measured.quality,
            latency=latency,
        )

    def run(self, key: RunKey) -> SweepRecord:
        """Perform a run; its seed is the number of its repeat.

        Raises:
            AldsError: it failed for a reason other than a ratio out of reach.
        """
        clock = Clock()
        record = SweepRecord(
            key.method, key.ratio, key.repeat, key.repeat, key.retrain_epochs, reached=False
        )
        try:
            with clock("compress"):
                network, report = self._compressed(key)
            if key.retrain_epochs:
                with clock(RETRAINING):
                    network = self._retrained(network, key)
        except ContractError as error:
            return replace(record, reason=error.message, seconds=clock.seconds)
        except AldsError as error:
            error.message = f"{key.method} at ratio {key.ratio}: {error.message}"
            raise
        with clock("evaluate"):
            measured = self._measured(network)
        latency, before = self._times(network, clock)
        if self.artefacts is not None:
            write_network(network, self.artefacts.artefact_file(key), verify(network))
        return replace(
            record,
            reached=True,
            params=measured.footprint.params,
            macs=measured.footprint.macs,
            bytes=_size(network),
            quality=measured.quality,
            latency=latency,
            latency_before=before,
            layers=tuple(report.layers),
            seconds=clock.seconds,
        )

    def _compressed(self, key: RunKey) -> tuple[Network, CompressionReport]:
        spec = self.specs[key.method]
        (result,) = compress_networks(
            CompressOptions(
                self.network,
                ratio=Fraction(key.ratio),
                target=self.options.target,
                method=spec.name,
                method_args=spec.arguments,
                solver=spec.solver,
                bound=spec.bound,
                seed=key.repeat,
                data=self.training if spec.looks else None,
                refit=spec.refit,
                tune_steps=spec.tune_steps,
                samples=self.options.samples,
                preprocessing=self.preprocessing,
                workers=self.options.workers,
                device=self.options.device,
                progress=self.options.progress,
            )
        )
        assert result.network is not None  # noqa: S101 - this was not a dry run
        return result.network, result.report

    def _retrained(self, network: Network, key: RunKey) -> Network:
        assert self.training is not None  # noqa: S101 - checked before the first run
        settings = replace(self.retraining, epochs=key.retrain_epochs, seed=key.repeat)
        return retrain(
            RetrainOptions(
                network,
                self.training,
                settings,
                teacher=self.network if self.options.teacher else None,
                preprocessing=self.preprocessing,
                workers=self.options.workers,
                device=self.options.device,
                progress=self.options.progress,
            )
        ).network

    def _measured(self, network: Network) -> Measured:
        return evaluate(
            EvaluateOptions(
                network,
                self.images,
                preprocessing=self.preprocessing,
                workers=self.options.workers,
                latency=False,
                device=self.options.device,
                progress=self.options.progress,
            )
        ).model

    def _times(self, network: Network, clock: Clock) -> tuple[Latency | None, Latency | None]:
        """Return the network's time and, measured in turns with it, that of the original."""
        if not self.options.latency:
            return None, None
        shape = Batches(self.images, self.preprocessing, batch_size=1).input_shape
        modules = {"network": network.module, "original": self.network.module}
        with clock("time"):
            times = measure_latency(modules, shape, device=pick_device(self.options.device))
        return times["network"], times["original"]


def _size(network: Network) -> int | None:
    """Return the bytes of the network's artefact; None where it could not be built again."""
    if network.architecture is None:
        return None
    return artefact_size(network.module.state_dict(), network.document(), "artefact.pt")


def image_fingerprint(images: LabelledImages) -> dict[str, Any]:
    """Return what identifies a set of images wherever it is stored: its images and labels."""
    found = images.fingerprint()
    digest = hashlib.sha256(f"{found.images}{found.labels}".encode())
    return {"images": len(images), "sha256": digest.hexdigest()}

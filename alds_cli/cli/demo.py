"""`alds demo`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alds_cli.cli.verbs import verb
from alds_cli.options.demo_options import DemoOptions
from alds_cli.options.reporting_options import ComputingReporting

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from alds_cli.cli.interface import Interface, Rows
    from alds_cli.evaluation.models import Measured
    from alds_cli.schemas.results import DemoNetworkForm

_RATIOS = ("0.5", "0.8")
_TRAINING_EPOCHS = 12
_RETRAINING_EPOCHS = 3
_RETRAINING_LR = 0.02
_BATCH_SIZE = 64


@verb(DemoOptions, ComputingReporting)
def command(options: DemoOptions, reporting: ComputingReporting) -> None:
    """Train a small network, compress it and retrain it, all within a minute.

    Needs no file and no network connection; the images come with scikit-learn.
    """
    from alds_cli.cli.interface import Interface  # noqa: PLC0415 - slow to import
    from alds_cli.schemas.results import DemoForm  # noqa: PLC0415

    interface = Interface(reporting)
    output = options.output
    chain = _Chain(interface, output, options.seed)
    chain.run()
    interface.show(chain.table())
    interface.remark(f"The files are in {output}. Things to try next:")
    interface.remark(f"  alds inspect {output}/small-0.8.pt")
    interface.remark(f"  alds compress {output}/digits_cnn.pt --ratio 0.6 -o {output}/small-0.6.pt")
    interface.show_json(lambda: DemoForm(folder=str(output), networks=chain.rows))


class _Chain:
    """The steps of the demo, each made by the function behind a command, and their results."""

    def __init__(self, interface: Interface, folder: Path, seed: int) -> None:
        self.interface = interface
        self.folder = folder
        self.seed = seed
        self.rows: list[DemoNetworkForm] = []

    def run(self) -> None:
        """Train, profile, compress at two ratios, evaluate, retrain, evaluate."""
        from alds_cli import api  # noqa: PLC0415 - it imports torch
        from alds_cli.datasets.digits import write_digits  # noqa: PLC0415
        from alds_cli.errors import OutputError  # noqa: PLC0415

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make the folder {self.folder}: {error.strerror}") from error
        train, test = write_digits(self.folder)
        data = f"tensors:{test}"
        original = self.folder / "digits_cnn.pt"
        self.interface.say(f"training digits_cnn on {train.name}")
        self._train(original, f"tensors:{train}")
        self._record("original", api.evaluate(original, data).model)
        with self.interface.progress() as progress:
            api.profile(original, progress=progress)
        for ratio in _RATIOS:
            small = self.folder / f"small-{ratio}.pt"
            self.interface.say(f"alds compress {original} --ratio {ratio} -o {small}")
            api.compress(original, ratio=ratio, output=small)
            self._record(f"ratio {ratio}", api.evaluate(small, data).model)
            better = self.folder / f"better-{ratio}.pt"
            self.interface.say(
                f"alds retrain {small} --data tensors:{train} -o {better} "
                f"--epochs {_RETRAINING_EPOCHS} --batch-size {_BATCH_SIZE} "
                f"--lr {_RETRAINING_LR} --augment none"
            )
            self._retrain(small, f"tensors:{train}", better)
            self._record(f"ratio {ratio}, retrained", api.evaluate(better, data).model)

    def _train(self, target: Path, data: str) -> None:
        """Train from random weights, and write a plain state dict as any training script does."""
        import torch  # noqa: PLC0415 - slow to import

        from alds_cli import api, architectures  # noqa: PLC0415
        from alds_cli.checkpoint import dump_torch, replacing  # noqa: PLC0415
        from alds_cli.options.training_options import RetrainSettings  # noqa: PLC0415

        torch.manual_seed(self.seed)
        module = architectures.build(architectures.parse_architecture("digits_cnn"))
        settings = RetrainSettings(
            epochs=_TRAINING_EPOCHS,
            batch_size=_BATCH_SIZE,
            lr=0.05,
            warmup_epochs=1,
            augmentation="none",
            seed=self.seed,
        )
        with self.interface.progress() as progress:
            trained = api.retrain(module, data, settings, progress=progress)
        with replacing(target) as temporary:
            dump_torch(trained.network.module.state_dict(), temporary)

    def _retrain(self, model: Path, data: str, target: Path) -> None:
        from alds_cli import api  # noqa: PLC0415 - it imports torch
        from alds_cli.options.training_options import RetrainSettings  # noqa: PLC0415

        settings = RetrainSettings(
            epochs=_RETRAINING_EPOCHS,
            batch_size=_BATCH_SIZE,
            lr=_RETRAINING_LR,
            augmentation="none",
            seed=self.seed,
        )
        with self.interface.progress() as progress:
            api.retrain(model, data, settings, output=target, progress=progress)

    def _record(self, name: str, measured: Measured) -> None:
        from alds_cli.schemas.results import DemoNetworkForm  # noqa: PLC0415 - slow to import

        latency = measured.footprint.latency
        assert measured.quality is not None  # noqa: S101 - the digits have labels
        self.rows.append(
            DemoNetworkForm(
                name=name,
                params=measured.footprint.params,
                macs=measured.footprint.macs,
                bytes=measured.footprint.bytes,
                top1=measured.quality.top1,
                latency_ms=None if latency is None else latency.median_ms,
            )
        )

    def table(self) -> Rows:
        """Return a table with one row for each network."""
        from alds_cli.cli.interface import table  # noqa: PLC0415 - not needed for --help

        made = table(
            "digits_cnn on 8×8 digits", "network", "parameters", "MACs", "file", "top-1", "latency"
        )
        for row in self.rows:
            made.add_row(*self._cells(row))
        return made

    @staticmethod
    def _cells(row: DemoNetworkForm) -> Sequence[str]:
        from alds_cli.text import count, size  # noqa: PLC0415

        return (
            row.name,
            count(row.params),
            count(row.macs),
            size(row.bytes),
            f"{row.top1:.2f} %",
            f"{row.latency_ms:.3f} ms",
        )

"""The epochs of a training: steps, judgements, and the state between any two steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from alds_cli.errors import ContractError, DataError, LostProcessError, first_line
from alds_cli.options.training_options import RetrainSettings
from alds_cli.records import (
    NOT_BEGUN,
    EpochProgress,
    EpochRecord,
    ProgressCallback,
    ProgressEvent,
)
from alds_cli.retraining.averaging import WeightAverage
from alds_cli.retraining.compiling import CompiledNetwork, new_step
from alds_cli.retraining.held_weights import HeldWeights, derived_seed, seeded
from alds_cli.retraining.judging import Judgement, RunSamples
from alds_cli.retraining.mixing import mixture
from alds_cli.retraining.objective import MixedBatch, RunObjective
from alds_cli.retraining.optimisers import optimiser_of
from alds_cli.retraining.pair_decay import ProductDecay
from alds_cli.retraining.schedules import learning_rate
from alds_cli.retraining.state import SeenSamples, TrainingState, in_memory
from alds_cli.retraining.updates import Updates
from alds_cli.runtime.devices import tip_for
from alds_cli.runtime.distributed import ALONE, lost_touch, summed, world
from alds_cli.runtime.interruption import Interruption
from alds_cli.tracing.tokens import Inputs, call
from alds_cli.tracing.trace import evaluation_mode


class Epochs:
    """A training run: the network, its optimiser, and the settings of all epochs.

    What an epoch draws depends on the seed, the epoch and the step alone, apart from what the
    network draws itself.
    """

    def __init__(
        self,
        module: nn.Module,
        samples: RunSamples,
        settings: RetrainSettings,
        held: HeldWeights,
        objective: RunObjective,
        decay: ProductDecay | None,
        progress: ProgressCallback | None,
        seen: SeenSamples,
        asked: Interruption,
        keep: Callable[[TrainingState], None] | None,
        due: Callable[[], bool] | None,
    ) -> None:
        self.history: tuple[EpochRecord, ...] = ()
        self._within = NOT_BEGUN
        self._random: Sequence[Tensor] = ()
        self._world = world()
        self._module = module
        self._network = module if self._world == ALONE else _parallel(module)
        if settings.compile:
            self._network = CompiledNetwork(self._network, samples.full, held.device)
        self._samples = samples
        self._settings = settings
        self._held = held
        self._device = held.device
        self._objective = objective
        self._progress = progress
        self._seen, self._asked = seen, asked
        self._keep, self._due = keep, due
        halves = [] if decay is None else decay.halves
        apart = {id(own) for own in halves}
        others = [p for p in module.parameters() if p.requires_grad and id(p) not in apart]
        self._parameters = [*others, *halves]
        self._updates = Updates(
            optimiser_of(settings, others, halves),
            self._parameters,
            clip_norm=settings.clip_norm,
            decay=decay,
            scaled=settings.precision == "float16",
        )
        self._average = None if settings.ema is None else WeightAverage(module, held, settings.ema)
        self._best_loss = math.inf
        self._best: Mapping[str, Tensor] | None = None

    def epoch(self) -> None:
        """Train on every sample once, or on those that are left of an epoch, and judge.

        Raises:
            ContractError: the loss or the weights are no longer finite.
            KeyboardInterrupt: the process, or another of the job, was asked to stop.
        """
        epoch = len(self.history)
        batches = self._samples.epoch(epoch, self._within.step)
        start = time.monotonic() - self._within.seconds
        batch, lr = None, 0.0
        with seeded(derived_seed(self._settings.seed, epoch, "network"), self._device):
            self._restore_random()
            for inputs, labels in batches:
                step = self._within.step
                lr = learning_rate(self._settings, epoch * len(batches) + step, len(batches))
                batch = self._mixed(inputs, labels, epoch, step)
                with _losses_told():
                    found = self._step(batch, lr)
                _check_finite(found.loss, epoch, step, lr)
                self._within = EpochProgress(
                    step + 1,
                    self._within.loss + found.loss * found.counted,
                    self._within.correct + found.correct,
                    time.monotonic() - start,
                    self._within.counted + found.counted,
                )
                self._tell(epoch, len(batches), found, lr)
                asked = self._world == ALONE and bool(self._asked)
                self._after_step(stops=found.stops or asked)
            if not self._sound(batch):
                _check_finite(math.inf, epoch, len(batches) - 1, lr)
            judgement = self._judged()
        lr = learning_rate(self._settings, (epoch + 1) * len(batches) - 1, len(batches))
        self._finish(epoch, lr, judgement, time.monotonic() - start)

    def _finish(self, epoch: int, lr: float, judgement: Judgement | None, seconds: float) -> None:
        """Record an epoch, and keep the state after it."""
        within = self._within
        record = EpochRecord(
            epoch + 1,
            lr,
            within.loss / (within.counted or 1),
            self._accuracy(within.correct, within.counted),
            seconds,
        )
        if judgement is not None:
            record = replace(
                record, validation_loss=judgement.loss, validation_accuracy=judgement.accuracy
            )
        self.history, self._within = (*self.history, record), NOT_BEGUN
        if self._keep is not None:
            self._keep(self._state())

    def _after_step(self, *, stops: bool) -> None:
        """Keep the state if that is due, and stop where that was asked for."""
        due = stops or (self._due is not None and self._due())
        # A step whose loss is finite may still leave weights that are not.
        if self._keep is not None and due and self._held.finite():
            self._keep(self._state())
        if stops:
            raise KeyboardInterrupt

    def _accuracy(self, correct: float, counted: float) -> float | None:
        """Return the share of right answers in per cent, if answers can be right."""
        return _share(correct, counted or 1) if self._objective.rights else None

    def _mixed(self, inputs: Inputs, labels: Tensor, epoch: int, step: int) -> MixedBatch:
        """Return a batch with its images mixed, on the device and in the network's type."""
        share = 1.0
        mixes = self._settings.mixup > 0 or self._settings.cutmix > 0
        if mixes and isinstance(inputs, Tensor):
            seed = derived_seed(self._settings.seed, epoch, f"mixture {step}")
            inputs, share = mixture(inputs, self._settings, seed)
        return self._placed(inputs, labels, share)

    def _placed(self, inputs: Inputs, labels: Tensor, share: float = 1.0) -> MixedBatch:
        if isinstance(inputs, Tensor):
            inputs = inputs.to(self._device, self._parameters[0].dtype)
        return MixedBatch(inputs.to(self._device), labels.to(self._device), share)

    def _sound(self, batch: MixedBatch | None) -> bool:
        """Check the network after the last update of an epoch, which no later step would do.

        Return whether its weights and statistics are finite in the precision they are cast
        back to, and whether its loss on the given batch, if any, is finite in evaluation mode;
        in every process of the job.
        """
        sound = self._held.finite()
        if batch is not None:
            with evaluation_mode(self._module), torch.no_grad(), self._precision():
                loss, _ = self._objective(self._output(self._module, batch), batch)
                sound = sound and math.isfinite(loss.item())
        return summed([not sound], self._device) == [0.0]

    def _judged(self) -> Judgement | None:
        """Judge the network as it would be written, and keep it if it is the best so far."""
        judges = self._samples.judges
        if judges is None:
            return None
        loss, correct, counted = 0.0, 0.0, 0
        with self._averaged():
            with (
                self._held.rounded(),
                evaluation_mode(self._module),
                torch.no_grad(),
                self._precision(),
            ):
                for inputs, labels in judges:
                    if not len(labels):
                        continue  # others have the images of this batch
                    batch = self._placed(inputs, labels)
                    found, right = self._objective.judged(self._output(self._module, batch), batch)
                    own = self._objective.counted(batch)
                    loss, counted = loss + found.item() * own, counted + own
                    correct += right.sum().item()
                    if self._asked and self._world == ALONE:
                        self._after_step(stops=True)
            loss, correct, total = summed([loss, correct, counted], self._device)
            loss /= total or 1
            if loss < self._best_loss:
                self._best_loss, self._best = loss, in_memory(self._module.state_dict())
        return Judgement(loss, self._accuracy(correct, total))

    def _averaged(self) -> AbstractContextManager[None]:
        return nullcontext() if self._average is None else self._average.instead()

    def _precision(self) -> AbstractContextManager[object]:
        """Return the context in which the network computes in the precision asked for."""
        name = self._settings.precision
        if name == "float32":
            return nullcontext()
        return torch.autocast(self._device.type, getattr(torch, name))

    def _step(self, batch: MixedBatch, lr: float) -> _Step:
        """Make one update for a batch, of which this process has a part."""
        if self._settings.compile:
            new_step(self._device)
        counted: float = self._objective.counted(batch)
        with self._precision():
            loss, right = self._objective(self._output(self._network, batch), batch)
        if self._world != ALONE:  # so that the mean over the processes is that over all answers
            own, (counted,) = counted, summed([counted], self._device)
            loss = loss * (own * self._world.size / (counted or 1))
        self._updates.make(loss, lr)
        if self._average is not None:
            self._average.update()
        # Together, since a GPU has to be waited for each time.
        value, correct = torch.stack([loss.detach(), right.sum().to(loss)]).tolist()
        stops = bool(self._asked)
        if self._world != ALONE:
            value, correct, stopping = summed([value, correct, stops], self._device)
            value, stops = value / self._world.size, stopping > 0
        return _Step(value, correct, counted, stops)

    def _output(self, network: nn.Module, batch: MixedBatch) -> object:
        inputs = batch.inputs
        try:
            return call(network, inputs, self._device, self._parameters[0].dtype)
        except (RuntimeError, ValueError, AssertionError, IndexError, TypeError) as error:
            if lost_touch(error):
                raise
            # Networks raise various errors if the size of the input is wrong.
            raise DataError(
                f"the network cannot train on inputs of shape {tuple(inputs.shape)}: "
                f"{first_line(error)}",
                tip=f"{tip_for(inputs)}; or use a smaller --batch-size",
            ) from error

    def _tell(self, epoch: int, steps: int, found: _Step, lr: float) -> None:
        if self._progress is not None:
            accuracy = self._accuracy(found.correct, found.counted)
            figures = {"loss": found.loss, "lr": lr, "epoch": epoch + 1.0}
            if accuracy is not None:
                figures["accuracy"] = accuracy
            done, total = epoch * steps + self._within.step, self._settings.epochs * steps
            self._progress(ProgressEvent("retrain", done, total, figures))

    def settle(self) -> Mapping[str, Tensor] | None:
        """Give the network what the run results in; return the last weights if images judged."""
        if self._average is not None:
            self._average.settle()
        if self._best is None:
            return None
        last: Mapping[str, Tensor] = in_memory(self._module.state_dict())
        self._module.load_state_dict(self._best)
        return last

    def _state(self) -> TrainingState:
        """Copy everything that the next step depends on to main memory."""
        return TrainingState(
            self._settings,
            self._samples.preprocessing,
            len(self._samples.dataset),
            self._seen.fingerprint,
            self.history,
            in_memory(self._module.state_dict()),
            in_memory(self._updates.optimiser.state_dict()),
            None if self._average is None else in_memory(self._average.tensors),
            self._best,
            self._updates.scaler_state() or None,
            self._seen.validation,
            self._within,
            self._drawn_from() if self._within.step else (),
        )

    def _drawn_from(self) -> tuple[Tensor, ...]:
        """Return the states of the generators that the network draws from."""
        states = [torch.get_rng_state()]
        if self._device.type == "cuda":
            states.append(torch.cuda.get_rng_state(self._device))
        return tuple(states)

    def _restore_random(self) -> None:
        """Let the network go on drawing where it was interrupted."""
        states, self._random = self._random, ()
        for number, state in enumerate(states):
            if number == 0:
                torch.set_rng_state(state)
            else:
                torch.cuda.set_rng_state(state, self._device)

    def restore(self, state: TrainingState) -> None:
        """Take up the run where a state of it was kept."""
        # Check everything before changing anything.
        expected = self._module.state_dict()
        model = state.model_like(expected)
        optimiser = state.optimiser_like(self._updates.optimiser.state_dict(), self._parameters)
        averages = state.averages_like(() if self._average is None else self._average.tensors)
        best = state.best_like(expected, judged=self._samples.judges is not None)
        scaler = state.scaler_like(self._updates.scaler_state())
        self._module.load_state_dict(model)
        self._updates.restore(optimiser, scaler)
        if self._average is not None:
            self._average.restore(averages)
        if best is not None:
            losses = [own.validation_loss for own in state.history]
            self._best, self._best_loss = best, min(own for own in losses if own is not None)
        self.history, self._within, self._random = state.history, state.within, state.random


@dataclass(frozen=True, slots=True)
class _Step:
    """One update.

    Attributes:
        loss: the mean before it.
        correct: how many answers were right before it.
        counted: how many there are.
        stops: whether some process of the job was asked to stop.
    """

    loss: float
    correct: float
    counted: float
    stops: bool


@contextmanager
def _losses_told() -> Iterator[None]:
    """Say what to do where another process of the job has ended."""
    try:
        yield
    except RuntimeError as error:
        if not lost_touch(error):
            raise
        raise LostProcessError(
            f"another process of the job has ended: {first_line(error)}",
            tip="start the job again with --resume, which goes on from the last state kept",
        ) from error


def _share(part: float, whole: float) -> float:
    """Return a share in per cent; sums of many pixels may round to a little more than all."""
    return min(100.0, 100 * part / whole)


def _parallel(module: nn.Module) -> nn.Module:
    """Return a network whose gradients are averaged over the processes of a job.

    All of them begin with the weights of the first.
    """
    # Auxiliary heads, whose answers no loss looks at, get no gradients.
    return DistributedDataParallel(module, broadcast_buffers=False, find_unused_parameters=True)


def _check_finite(loss: float, epoch: int, step: int, lr: float) -> None:
    if not math.isfinite(loss):
        raise ContractError(
            f"retraining diverged in epoch {epoch + 1}, step {step + 1}, "
            f"at a learning rate of {lr:g}: the loss is no longer finite",
            tip="use a smaller --lr or a longer --warmup-epochs; no result was written",
        )

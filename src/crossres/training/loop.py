"""The one training loop, for teachers and students."""

import math
import time
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, distributed

from crossres.config.experiment import Experiment
from crossres.config.options import Train
from crossres.config.record import sha256
from crossres.core.errors import CrossresError, library_errors, needs
from crossres.core.files import save_state, to_json, write_atomically
from crossres.core.progress import Progress
from crossres.core.types import Batch, Outputs
from crossres.evaluation.statistics import beyond_chance
from crossres.models.encoder import Encoder
from crossres.models.small_maps import fast_weight_gradients
from crossres.training.distiller import LossError
from crossres.training.task import PreparedRun

#: Steps between two looks at the losses; on a GPU each look waits for the device.
LOOK_EVERY = 25
PROCESSES = "number of processes"
#: What the loop itself counts, and a state keeps.
PLAIN = ("epoch", "rows", "best", "best_epoch", "best_accuracy")


class TrainingLoop:
    """The loop: epochs, validation, the best weights, the state."""

    def __init__(self, run: PreparedRun, fabric: Fabric, progress: Progress) -> None:
        train = run.config.train
        self.run = run
        self.fabric = fabric
        self.progress = progress
        #: steps of the optimizer in an epoch, each of ``train.accumulate`` batches
        self.per_epoch = run.train.steps // train.accumulate
        self.total = self.per_epoch * run.epochs
        optimizer = optimizer_of(run.distiller, train)
        self.scheduler = scheduler_of(optimizer, train, self.total, self.per_epoch)
        self.module, self.optimizer = fabric.setup(run.distiller, optimizer)
        self.average = None
        if train.ema:
            self.average = torch.optim.swa_utils.AveragedModel(
                run.student,
                multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(train.ema),  # type: ignore[no-untyped-call]
                use_buffers=True,
            )
        self.epoch = 0
        self.best: dict[str, Tensor] = {}
        self.best_epoch = 0
        self.best_accuracy = -1.0
        self.rows: list[dict[str, Any]] = []
        self.writer = _tensorboard(run.config) if fabric.global_rank == 0 else None

    @property
    def judged(self) -> Encoder:
        """The network whose accuracy counts: the average of the weights where there is one."""
        if self.average is None:
            return self.run.student
        average = self.average.module
        assert isinstance(average, Encoder)
        return average

    def train(self, state_path: Path) -> None:
        """Train the epochs that are left; the state is written after each."""
        if self.fabric.global_rank == 0:
            if self.epoch == 0:
                save_state(state_path, self.state())  # Ctrl-C in the first epoch is resumable too
            else:
                self._write_metrics(state_path.parent)  # the run may have stopped between the two files
        while self.epoch < self.run.epochs:
            started = time.perf_counter()
            # also the losses' own draws (anchors) then depend on (seed, epoch) alone
            torch.manual_seed((self.run.config.train.seed * 1_000_003 + self.epoch + 1) % 2**63)
            with fast_weight_gradients(self.run.distiller):
                row = self._one_epoch()
            self._refuse_bad_weights(row["losses"])
            row["seconds"] = time.perf_counter() - started
            self.epoch += 1
            row = {"epoch": self.epoch, **row, **self._validate()}
            row["total_seconds"] = row["seconds"] + sum(r["seconds"] for r in self.rows)
            row["seconds_with_validation"] = time.perf_counter() - started
            self.rows.append(row)
            if self.fabric.global_rank == 0:
                save_state(state_path, self.state())
                self._write_metrics(state_path.parent)
                self._show(row)
            self.fabric.barrier()
        self.choose()
        if self.writer is not None:
            self.writer.close()

    def _one_epoch(self) -> dict[str, Any]:
        run, device = self.run, self.run.train.device
        self.module.train()
        live = run.teacher is not None and run.cache is None and run.distiller.needs_teacher
        names = list(run.distiller.losses)
        sums, right = torch.zeros(len(names), device=device), torch.zeros((), device=device)
        started, seen = time.perf_counter(), 0
        terms: dict[str, Tensor] = {}
        classifies = run.student.classifier is not None
        each = run.config.train.accumulate
        for step, batch in enumerate(run.train.epoch(self.epoch, hr=live), 1):
            run.distiller.progress = (self.epoch * self.per_epoch + (step - 1) // each) / self.total
            # the processes exchange their gradients once a step of the optimizer
            with self.fabric.no_backward_sync(self.module, enabled=step % each != 0):
                terms, logits = self._terms(batch, self._teacher_outputs(batch, live), terms)
                self.fabric.backward(torch.stack(list(terms.values())).sum() / each)
            if step % each == 0:
                self._step()
            with torch.no_grad():
                sums += torch.stack([terms[name].detach() for name in names])
                if logits is not None:
                    right += (logits.argmax(1) == batch.label).sum()
            seen += len(batch.label)
            if step % LOOK_EVERY == 0 or step == run.train.steps:
                values = dict(zip(names, (sums / step).tolist(), strict=True))
                self._refuse_nan(values)
                # the losses are of the global batch, the logits of this process's share
                accuracy = 100 * self._over_processes(right) / (seen * self.fabric.world_size) if classifies else None
                row = {
                    "losses": values,
                    **({} if accuracy is None else {"train_top1": accuracy}),
                    "learning_rate": self.optimizer.param_groups[0]["lr"],
                    "images_per_second": seen * self.fabric.world_size / (time.perf_counter() - started),
                }
                done = self.epoch * run.train.steps + step
                self.progress.step({"epoch": self.epoch + 1, **row}, run.epochs, done, run.train.steps * run.epochs)
        return row

    def _step(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.scheduler.step()
        if self.average is not None:
            self.average.update_parameters(self.run.student)

    def _teacher_outputs(self, batch: Batch, live: bool) -> Outputs | None:
        run = self.run
        if run.cache is not None:
            return run.cache(batch.index, batch.view, batch.place)
        if not live or run.teacher is None or batch.hr is None:
            return None
        with torch.no_grad(), self.fabric.autocast():
            outputs: Outputs = run.teacher(batch.hr)
            if run.config.distillation and run.config.distillation.teacher_views == "mirrored":
                other: Outputs = run.teacher(batch.hr.flip(-1))
                both = outputs.logits is not None and other.logits is not None
                logits = (outputs.logits + other.logits) / 2 if both else None  # type: ignore[operator]
                outputs = Outputs((outputs.embedding + other.embedding) / 2, logits, outputs.features)
        return outputs

    def _terms(
        self, batch: Batch, teacher: Outputs | None, earlier: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        try:
            return self.module(batch.lr, teacher, batch.label, batch.index, batch.aligned)  # type: ignore[no-any-return]
        except LossError as error:
            if earlier and "student" in error.reason and "NaN" in error.reason:
                # the step before broke the weights, not the loss that is the first to read what they give
                values = {name: float(term.detach()) for name, term in earlier.items()}
                self._refuse_nan(values)
                raise self._blown_up(values, "the student's output") from None
            raise self._stopped(error.name, f"failed ({error.reason})") from None

    def _over_processes(self, count: Tensor) -> float:
        # a copy: the sum is written in place
        return float(self.fabric.all_reduce(count.clone(), reduce_op="sum"))  # type: ignore[arg-type]

    def _refuse_nan(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            if not math.isfinite(value):
                raise self._stopped(name, f"became {value}")

    def _refuse_bad_weights(self, values: dict[str, float]) -> None:
        """An epoch's last step can break the weights after its losses were finite: that state is not kept."""
        trained = [*self.run.distiller.parameters(), *self.run.student.buffers()]
        if not all(bool(torch.isfinite(t).all()) for t in trained):
            raise self._blown_up(values, "the weights")

    def _blown_up(self, values: dict[str, float], what: str) -> CrossresError:
        largest = max(values, key=lambda name: abs(values[name]))
        return self._stopped(largest, f"was {values[largest]:.3g}, then {what} became NaN or infinite")

    def _stopped(self, loss: str, what: str) -> CrossresError:
        return CrossresError(
            f"losses.{loss} {what} in epoch {self.epoch + 1}; the state of epoch {self.epoch} "
            f"is kept: lower train.learning_rate or losses.{loss}.weight and start anew with --overwrite"
        )

    def _validate(self) -> dict[str, float]:
        val, task = self.run.val, self.run.task
        if self.fabric.world_size > 1:
            for buffer in self.judged.buffers():  # each process judges its share by the same network
                distributed.broadcast(buffer, 0)
        row = {} if val is None else task.validate(self.judged, val, self.fabric.autocast)
        accuracy = row.get(task.chosen_by, float(self.epoch))  # without validation the last epoch is the best
        # the later epoch wins a tie
        if accuracy >= self.best_accuracy:
            self.best_accuracy, self.best_epoch = accuracy, self.epoch
            self.best = self.weights()
        return row

    def choose(self) -> None:
        """Leave the best epoch for the last one where two standard errors do not tell them apart on validation.

        Of many epochs one is best by chance, the more so on few images.
        """
        task, val, last = self.run.task, self.run.val, self.rows[-1]
        if val is None or task.chosen_by not in last:
            return
        if not beyond_chance(self.best_accuracy, last[task.chosen_by], task.cases(val)):
            self.best_epoch, self.best = self.epoch, self.weights()

    def _write_metrics(self, folder: Path) -> None:
        text = "".join(to_json(r) + "\n" for r in self.rows)
        write_atomically(folder / "metrics.jsonl", lambda f: f.write(text.encode()))

    def _show(self, row: dict[str, Any]) -> None:
        self.progress.epoch(row, self.run.epochs)
        if self.writer is not None:
            for name, value in {**row, **row["losses"]}.items():
                if isinstance(value, (int, float)) and name != "epoch":
                    self.writer.add_scalar(name, value, row["epoch"])

    def state(self) -> dict[str, Any]:
        """Everything the next epoch depends on; the random draws depend on (seed, epoch) alone."""
        return {
            "config": sha256(self.run.config),
            "given": self._given(),
            "threads": torch.get_num_threads(),
            **{name: part.state_dict() for name, part in self._parts().items()},
            **{name: getattr(self, name) for name in PLAIN},
        }

    def _parts(self) -> dict[str, Any]:
        """Return what keeps a state of its own."""
        average = {} if self.average is None else {"average": self.average}
        others = {"optimizer": self.optimizer, "scheduler": self.scheduler}
        return {"distiller": self.run.distiller, **average, **others}

    def _given(self) -> dict[str, str]:
        """What the numbers depend on beside the config, by what a user would call it."""
        facts, teacher = self.run.facts, self.run.facts["teacher"]
        # the test images are no part of the training: a damaged one can be mended before the run is judged
        given = {f"{part} images": d for part, d in facts["data_sha256"].items() if part != "test"}
        if facts["start_sha256"]:
            given["model.weights"] = facts["start_sha256"]
        given[PROCESSES] = str(self.fabric.world_size)
        if facts["teacher_maps"]:
            given["way stored maps follow the images"] = facts["teacher_maps"]
        return {**given, "teacher": teacher["sha256"] if teacher else "", "precision": facts["precision"]}

    def load(self, state: dict[str, Any]) -> None:
        """Go back to a state; refused where it belongs to another run."""
        if state.get("config") != sha256(self.run.config):
            raise CrossresError(
                "the state belongs to another experiment than the config; use --overwrite or another --name"
            )
        with library_errors("the state is damaged or of another version; use --overwrite"):
            now = self._given()
            before = {PROCESSES: now[PROCESSES], **state["given"]}  # an earlier version did not say
            if changed := [what for what in now | before if now.get(what) != before.get(what)]:
                times = " (or their files' modification times: cp -p keeps them)" if "images" in changed[0] else ""
                raise CrossresError(
                    f"the {changed[0]} changed since the run began{times}, so it cannot go on exactly; "
                    "use --overwrite or another --name"
                )
            for name, part in self._parts().items():
                part.load_state_dict(state[name])
            for name in PLAIN:
                if type(state[name]) is not type(getattr(self, name)):
                    raise TypeError(f"{name} is {type(state[name]).__name__}")
                setattr(self, name, state[name])
            if len(self.rows) != self.epoch or not 0 <= self.best_epoch <= self.epoch:
                raise ValueError("its epochs do not agree")
            if self.epoch and self.best.keys() != self.judged.state_dict().keys():
                raise ValueError("its best weights are of another network")

    def weights(self) -> dict[str, Tensor]:
        """Return a copy of the judged network's weights, on the CPU."""
        return {name: tensor.detach().cpu().clone() for name, tensor in self.judged.state_dict().items()}


def optimizer_of(module: torch.nn.Module, train: Train) -> torch.optim.Optimizer:
    weights = [p for p in module.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in module.parameters() if p.requires_grad and p.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": weights}, {"params": others, "weight_decay": 0.0}]
    if train.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=train.learning_rate, weight_decay=train.weight_decay, fused=True)
    momentum: dict[str, Any] = {"momentum": train.momentum, "nesterov": train.momentum > 0}
    return torch.optim.SGD(groups, train.learning_rate, weight_decay=train.weight_decay, fused=True, **momentum)


def scheduler_of(
    optimizer: torch.optim.Optimizer, train: Train, total: int, per_epoch: int
) -> torch.optim.lr_scheduler.LRScheduler:
    if train.schedule == "one_cycle":
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, train.learning_rate, total_steps=total + 1, cycle_momentum=False
        )
    if train.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=total)
    milestones = [round(fraction * total / per_epoch) * per_epoch for fraction in train.milestones]
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.1)


def _tensorboard(config: Experiment) -> Any:
    if not config.train.tensorboard:
        return None
    with needs("train.tensorboard", "tensorboard"):
        from torch.utils.tensorboard import SummaryWriter
    return SummaryWriter(str(config.folder / "tensorboard"))

"""The same training with Lightning's `Trainer`, as its users write it; needs the extra `bench`."""

from __future__ import annotations

import logging
import time
import warnings
from typing import Any

import lightning
import torch
from task import Run, Task, Timing, synchronize


class Network(lightning.LightningModule):
    """A network with its loss and its optimizer."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.network, self.loss_fn, self.task = task.model(), task.loss(), task

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        """The loss of one batch."""
        images, labels = batch
        return self.loss_fn(self.network(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The recipe's optimizer."""
        return self.task.optimizer(self.network)


class Clock(lightning.Callback):
    """The time from the first batch to the end, without the trainer's set-up."""

    def on_train_start(self, *_: Any) -> None:
        """Start."""
        synchronize()
        self.start = time.perf_counter()

    def on_train_end(self, *_: Any) -> None:
        """Stop."""
        synchronize()
        self.seconds = time.perf_counter() - self.start


def prepare(task: Task) -> Run:
    """Float images in memory, a DataLoader over a TensorDataset, a Trainer without logs and checkpoints.

    Pictures are cut to size beforehand: no augmentation, which is in Lightning's favour.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    data = task.images(mapped=True)
    inputs = torch.cat([task.transform()(piece) for piece in data.images.split(1000)])
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(inputs.contiguous(), data.labels),
        batch_size=task.recipe.batch,
        shuffle=True,
        drop_last=True,
    )
    network = Network(task)

    def run(steps: int) -> Timing:
        clock = Clock()
        trainer = lightning.Trainer(
            max_steps=steps,
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[clock],
        )
        trainer.fit(network, loader)
        return Timing(clock.seconds, steps * task.recipe.batch)

    return run

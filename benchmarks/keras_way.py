"""The same networks in Keras on TensorFlow, trained with `model.fit`; needs the extra `bench`, no torch.

Each network is written as a Keras user would write it. The race checks that it has as many parameters as the
notebook's. Images lie in memory as float32, channels last; `compile` keeps its defaults.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import images as stored_images
import keras
import numpy as np
import tensorflow as tf
from keras import layers
from recipes import Recipe

Timing = tuple[float, int]
if "OMP_NUM_THREADS" in os.environ:  # TensorFlow does not read it; all ways get as many threads
    tf.config.threading.set_intra_op_parallelism_threads(int(os.environ["OMP_NUM_THREADS"]))


def _mlp() -> list[layers.Layer]:
    return [layers.Flatten(), *(layers.Dense(200, activation="relu") for _ in range(2)), layers.Dense(10)]


def _lenet5_article() -> list[layers.Layer]:
    return [
        layers.Conv2D(6, 5, padding="same"),
        layers.MaxPooling2D(),
        layers.Activation("tanh"),
        layers.Conv2D(16, 5),
        layers.MaxPooling2D(),
        layers.Activation("relu"),
        layers.Flatten(),
        layers.Dense(120, activation="tanh"),
        layers.Dense(84, activation="tanh"),
        layers.Dense(10),
    ]


def _lenet5_keras() -> list[layers.Layer]:
    return [
        layers.Conv2D(6, 3),
        layers.MaxPooling2D(),
        layers.Activation("relu"),
        layers.Conv2D(16, 3),
        layers.MaxPooling2D(),
        layers.Activation("relu"),
        layers.Flatten(),
        layers.Dense(120, activation="relu"),
        layers.Dense(60, activation="relu"),
        layers.Dense(10),
    ]


def _guide_cnn() -> list[layers.Layer]:
    return [
        layers.Conv2D(32, 5, padding="same"),
        layers.MaxPooling2D(),
        layers.Activation("relu"),
        layers.Conv2D(64, 5, padding="same"),
        layers.MaxPooling2D(),
        layers.Activation("relu"),
        layers.Flatten(),
        layers.Dense(1024, activation="relu"),
        layers.Dropout(0.4),
        layers.Dense(10),
    ]


def _pytorch_cnn() -> list[layers.Layer]:
    return [
        layers.Conv2D(32, 5, padding="same", activation="relu"),
        layers.MaxPooling2D(),
        layers.Conv2D(64, 5, padding="same", activation="relu"),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dropout(0.5),
        layers.Dense(1000),
        layers.Dense(10),
    ]


def _response_norm(maps: tf.Tensor) -> tf.Tensor:
    return tf.nn.local_response_normalization(maps, depth_radius=2, bias=2.0, alpha=1e-4, beta=0.75)


def _alexnet() -> list[layers.Layer]:
    return [
        layers.ZeroPadding2D(2),
        layers.Conv2D(96, 11, strides=4, activation="relu"),
        layers.Lambda(_response_norm),
        layers.MaxPooling2D(3, 2),
        layers.Conv2D(256, 5, padding="same", groups=2, activation="relu"),
        layers.Lambda(_response_norm),
        layers.MaxPooling2D(3, 2),
        layers.Conv2D(384, 3, padding="same", activation="relu"),
        layers.Conv2D(384, 3, padding="same", groups=2, activation="relu"),
        layers.Conv2D(256, 3, padding="same", groups=2, activation="relu"),
        layers.MaxPooling2D(3, 2),
        layers.Flatten(),
        layers.Dense(4096, activation="relu"),
        layers.Dropout(0.5),
        layers.Dense(4096, activation="relu"),
        layers.Dropout(0.5),
        layers.Dense(10),
    ]


def _vgg16() -> list[layers.Layer]:
    stages: list[layers.Layer] = []
    for filters, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        stages += [layers.Conv2D(filters, 3, padding="same", activation="relu") for _ in range(count)]
        stages.append(layers.MaxPooling2D())
    dense = [layers.Dense(4096, activation="relu"), layers.Dropout(0.5)]
    again = [layers.Dense(4096, activation="relu"), layers.Dropout(0.5)]
    return [*stages, layers.Flatten(), *dense, *again, layers.Dense(10)]


NETWORKS: dict[str, Callable[[], list[layers.Layer]]] = {
    "MLP": _mlp,
    "ArticleLeNet5": _lenet5_article,
    "KerasLeNet5": _lenet5_keras,
    "GuideNet": _guide_cnn,
    "ConvNet": _pytorch_cnn,
    "AlexNet": _alexnet,
    "VGG": _vgg16,
}


def build(recipe: Recipe) -> keras.Model:
    """The compiled network; logits go into the loss, as in torch.

    Raises:
        ValueError: it is not written in Keras here.
    """
    if recipe.model not in NETWORKS:
        raise ValueError("not written in Keras: it has layers of its own")
    channels, height, width = recipe.input_shape
    model = keras.Sequential([keras.Input((height, width, channels)), *NETWORKS[recipe.model]()])
    model.compile(
        optimizer=_optimizer(recipe.optimizer),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def _optimizer(settings: dict[str, Any]) -> keras.optimizers.Optimizer:
    if settings["kind"] == "Adam":
        return keras.optimizers.Adam(settings["lr"], epsilon=settings.get("eps", 1e-8))
    decay = settings.get("weight_decay")
    return keras.optimizers.SGD(settings["lr"], momentum=settings.get("momentum", 0.0), weight_decay=decay)


def float_images(recipe: Recipe) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, H, W, C) float32, scaled and cut to the network's size, and labels (N,)."""
    pixels, labels = stored_images.read(recipe, mapped=True)
    corner = (recipe.stored[-1] - recipe.size) // 2
    window = slice(corner, corner + recipe.size)
    images = np.moveaxis(pixels[:, :, window, window], 1, -1).astype(np.float32)
    kind, first, second = recipe.scaling
    if kind == "scale":
        images *= (second - first) / 255
        images += first
    else:
        images /= 255
        images -= np.asarray(first, np.float32)
        images /= np.asarray(second, np.float32)
    return images, labels


class Clock(keras.callbacks.Callback):
    """The time from the first batch to the end, without `fit`'s set-up."""

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Start."""
        self.start = time.perf_counter()

    def on_train_end(self, logs: dict | None = None) -> None:
        """Stop."""
        self.seconds = time.perf_counter() - self.start


def prepare(recipe: Recipe) -> tuple[Callable[[int], Timing], int]:
    """The function that trains so many steps, and the network's number of trainable parameters."""
    model = build(recipe)
    inputs, labels = float_images(recipe)
    batch, a_pass = recipe.batch, len(labels) // recipe.batch

    def run(steps: int) -> Timing:
        clock, passes = Clock(), max(1, round(steps / a_pass))
        count = min(steps, a_pass) * batch  # whole passes, or a part of one
        model.fit(
            inputs[:count], labels[:count], batch_size=batch, epochs=passes, verbose=0, callbacks=[clock]
        )
        return clock.seconds, count * passes

    return run, sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)

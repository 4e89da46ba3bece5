"""What every worker process sets up once: one thread, the model, the data source. Imported on
workers; knows no Prefect.
"""

import dataclasses
import functools
import gc
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dr_lib.attribution import AttributionParams
from dr_lib.attribution.evaluator import Evaluator
from dr_lib.attribution.explain import Explainer, suggested_batch_size
from dr_lib.localisation.audit import Auditor, AuditParams
from dr_lib.localisation.baseline_maps import BaselineMaps
from dr_lib.network import backend
from dr_lib.network.classifier_outputs import ClassifierOutputs
from dr_lib.network.layers import logits_model
from dr_lib.network.model import ModelParams, build, layer_names, scaled
from storage import open_workspace
from storage.contents.models import ModelRecord, load_record, local_weights
from tasks.access.stores import fundus_store
from tasks.run.resolved_ids import ResolvedIds


def threads_here() -> int | None:
    """Threads this process may use: what OMP_NUM_THREADS says (workers are started with 1), else
    the library's choice.
    """
    value = os.environ.get("OMP_NUM_THREADS", "")
    return int(value) if value.isdigit() else None


def afresh(function: Callable[[Any], Any], job: Any) -> Any:
    """`function(job)` without the networks that this process has kept: their compiled functions
    hold memory.
    """
    for kept in (
        *(loaded_model, explainer, classifier_outputs),
        *(logits_evaluator, baseline_maps, auditor),
    ):
        kept.cache_clear()
    gc.collect()
    return function(job)


def read_model(location: str, model_id: str) -> Any:
    """The trained keras.Model of a workspace, in inference use. Its weights' sha256 is checked."""
    backend.configure(threads=threads_here())
    workspace = open_workspace(location)
    record = load_record(workspace.files, model_id)
    model = build(model_params(record))
    model.load_weights(local_weights(workspace.files, model_id))
    model.trainable = False
    return model


loaded_model = functools.lru_cache(maxsize=2)(read_model)  # once a process


@functools.lru_cache(maxsize=1)
def explainer(location: str, model_id: str, params: AttributionParams) -> Explainer:
    """The attribution engine of a model; kept, so that a process compiles it once and not once a
    shard.
    """
    return Explainer(loaded_model(location, model_id), params)


@functools.lru_cache(maxsize=2)
def classifier_outputs(location: str, model_id: str, batch_size: int) -> ClassifierOutputs:
    """A model's probabilities and their gradients; kept for the same reason."""
    return ClassifierOutputs(loaded_model(location, model_id), batch_size)


@functools.lru_cache(maxsize=2)
def logits_evaluator(location: str, model_id: str, batch_size: int) -> Evaluator:
    """A model's logits for `integrated_gradients`; kept for the same reason."""
    logits = logits_model(loaded_model(location, model_id))
    return Evaluator(lambda x: logits(x, training=False), batch_size)


@functools.lru_cache(maxsize=1)
def baseline_maps(
    location: str, model_id: str, quantity: str, layers: tuple[str, ...]
) -> BaselineMaps:
    """The gradient maps of a model that explanations are compared with; kept for the same reason.
    Layers that the model lacks are passed over.
    """
    record = load_record(open_workspace(location).files, model_id)
    known = layer_names(model_params(record))
    return BaselineMaps(
        loaded_model(location, model_id), quantity, [name for name in layers if name in known]
    )


@functools.lru_cache(maxsize=1)
def auditor(location: str, model_id: str, params: AuditParams, crop: float) -> Auditor:
    """The tests of a model's maps, with a model of their own; kept for the same reason."""
    model = read_model(location, model_id)
    made = model_params(load_record(open_workspace(location).files, model_id))
    # Not the seed of the training: what it started from has left traces in what it learnt.
    untrained = build(dataclasses.replace(made, seed=made.seed + 1))
    return Auditor(model, untrained, params, suggested_batch_size(model), crop=crop)


def model_params(record: ModelRecord) -> ModelParams:
    """The architecture in a model's record, as it grades and explains: the record's own weights
    replace the trunk's, and are float32 whatever the training computed in.
    """
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in record.architecture.items()
    }
    return ModelParams(**fields).explained


def fundi(location: str, preprocess_id: str, rows: Sequence[int] | np.ndarray) -> np.ndarray:
    """Normalised fundi (row, y, x, 3) uint8 of the given rows of a fundus store."""
    store = fundus_store(open_workspace(location), preprocess_id)
    return store.read_rows(rows, ["pixels"])["pixels"]


def inputs(ids: ResolvedIds, rows: Sequence[int] | np.ndarray) -> np.ndarray:
    """The same fundi as the network takes them, float32."""
    return scaled(fundi(ids.location, ids.preprocess_id, rows))

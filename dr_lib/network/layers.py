"""Cutting a network in two at a named layer (METHOD §5.1)."""

from typing import TYPE_CHECKING, Any

from dr_lib.network.graph import calls

if TYPE_CHECKING:
    import keras


def split_at(model: "keras.Model", layer_name: str) -> tuple["keras.Model", "keras.Model"]:
    """The model below and the model above a layer (METHOD §5.1).

    Parameters
    ----------
    layer_name: a layer that cuts the network in two: every way from the input to the output leads
        through it.

    Returns
    -------
    lower, upper: two models that share the given one's layers, with upper(lower(x)) = model(x).

    Raises
    ------
    ValueError: if the layer does not cut the network (naming the layers that go round it), is the
        model's input or output, is called more than once, or does not exist.
    """
    import keras

    every = list(calls(model))
    named = [call for call in every if call[0].name == layer_name]
    if not named:
        names = dict.fromkeys(layer.name for layer, _, _ in every)
        raise ValueError(f"the model has no layer {layer_name!r}; it has {', '.join(names)}")
    _, sources, outputs = named[0]
    problem = ""
    if len(named) > 1:
        problem = f"is called {len(named)} times: it names no single place to cut"
    elif not sources:
        problem = "is the model's input: there is nothing below it"
    elif len(outputs) > 1:
        problem = f"has {len(outputs)} outputs: activations must be a single tensor"
    elif outputs[0] is model.outputs[0]:
        problem = "is the model's output: there is nothing above it"
    elif bypassing := _bypassing(model, outputs[0]):
        more = f" and {len(bypassing) - 8} more" if len(bypassing) > 8 else ""
        problem = f"does not cut the model in two: {', '.join(bypassing[:8])}{more} lead round it"
    if problem:
        raise ValueError(f"layer {layer_name!r} {problem}")
    lower = keras.Model(model.inputs[0], outputs[0], name=f"below_{layer_name}")
    upper = keras.Model(outputs[0], model.outputs[0], name=f"above_{layer_name}")
    return lower, upper


def logits_model(model: "keras.Model") -> "keras.Model":
    """The model without its final softmax, sharing every weight: (n, …) -> (n, stages) logits.

    Gradients of saturated probabilities underflow; those of logits don't, and the softmax is known
    in closed form.

    Raises
    ------
    ValueError: if the model does not end in a softmax over the stages.
    """
    import keras

    last, sources, _ = list(calls(model))[-1]
    if isinstance(last, keras.layers.Softmax) or (
        isinstance(last, keras.layers.Activation) and last.activation is keras.activations.softmax
    ):
        return keras.Model(model.inputs[0], sources[0], name=f"{model.name}_logits")
    if not isinstance(last, keras.layers.Dense) or last.activation is not keras.activations.softmax:
        raise ValueError(
            f"the model must end in a softmax over the stages, not in {type(last).__name__}"
            f" {last.name!r}"
        )

    class Logits(keras.layers.Layer):
        def call(self, features: Any) -> Any:
            logits = keras.ops.matmul(features, last.kernel)
            return logits if last.bias is None else logits + last.bias

    logits = Logits(name="logits", dtype="float32")(sources[0])
    return keras.Model(model.inputs[0], logits, name=f"{model.name}_logits")


def _bypassing(model: "keras.Model", cut: Any) -> list[str]:
    """Layers that do not depend on the cut but feed one that does, or the output itself."""
    above, round_it = {id(cut)}, []
    for layer, sources, outputs in calls(model):
        if any(tensor is cut for tensor in outputs):
            continue
        if any(id(source) in above for source in sources):
            above |= {id(tensor) for tensor in outputs}
            round_it += [
                source._keras_history.operation.name
                for source in sources
                if id(source) not in above
            ]
        elif any(tensor is model.outputs[0] for tensor in outputs):
            round_it.append(layer.name)
    return list(dict.fromkeys(round_it))

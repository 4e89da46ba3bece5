"""kill -9 at random mini-batches and in the middle of writing: the run goes on and ends as if
nothing had happened.

One process imports TensorFlow, before it starts any thread of its own, and forks each run that is
to be killed: an import each would be most of the time.
"""

import os
import pathlib
import random
import signal
import subprocess
import sys

import numpy as np
import pytest

HERE = pathlib.Path(__file__).parent
STEPS, CHECKPOINT_EVERY = 9, 2

# Forks one training a kill; says after each in which way it ended.
KILLER = """
import io, os, pathlib, signal, sys
sys.path.insert(0, {here!r})
import test_training_run as t
from dr_lib.network import backend
from dr_lib.training import checkpoint

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def at_call(function, number, before):
    # The real function until its call `number`, which is killed before it does anything, or after all of it.
    calls = []
    def killing(*args, **kwargs):
        calls.append(1)
        if before and len(calls) == number:
            before(*args, **kwargs)
            die()
        result = function(*args, **kwargs)
        if len(calls) == number:
            die()
        return result
    return killing

def half(file, **arrays):
    whole = io.BytesIO()
    savez(whole, **arrays)
    file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
    file.flush()

savez = checkpoint.np.savez
class Os:
    path, fsync, replace = os.path, staticmethod(os.fsync), staticmethod(os.replace)
    open, close, O_RDONLY = staticmethod(os.open), staticmethod(os.close), os.O_RDONLY

def train(kind, number):
    backend.configure(deterministic=True)
    checkpoint.os = Os
    on_step = None
    if kind == "step":
        on_step = lambda report: die() if report.step == number else None
    elif kind == "half written":
        checkpoint.np.savez = at_call(savez, number, half)
    elif kind == "written, not renamed":
        Os.replace = staticmethod(at_call(os.replace, number, lambda *_, **__: None))
    elif kind == "renamed":
        Os.replace = staticmethod(at_call(os.replace, number, None))
    t.run(t.tiny(), t.short({steps}, checkpoint_every={every}), pathlib.Path({folder!r}), on_step)

for kind, number in {kills!r}:
    child = os.fork()
    if not child:
        train(kind, number)
        os._exit(0)
    print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and kill -9")
def test_a_run_killed_again_and_again_ends_with_the_weights_of_an_undisturbed_one(tmp_path):
    import test_training_run as training

    from dr_lib.network import backend

    backend.configure(deterministic=True)
    draws = random.Random(11)
    # A validation writes two files when its kappa is the best so far, the best weights and the
    # checkpoint: the first call of a resumed run may be either, and both are to be survived.
    kills = [
        ("step", draws.randint(1, 2)),
        ("half written", 1),
        ("written, not renamed", draws.randint(1, 2)),
        ("renamed", draws.randint(1, 2)),
        ("step", draws.randint(6, 8)),
    ]
    code = KILLER.format(
        here=str(HERE), folder=str(tmp_path), kills=kills, steps=STEPS, every=CHECKPOINT_EVERY
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == [str(int(signal.SIGKILL))] * len(kills), done.stderr[-3000:]

    params = training.short(STEPS, checkpoint_every=CHECKPOINT_EVERY)
    undisturbed, resumed = training.tiny(), training.tiny()
    whole = training.run(undisturbed, params)
    history = training.run(resumed, params, tmp_path)
    assert history.resumed_step > 0
    for one, other in zip(
        training.all_variables(undisturbed), training.all_variables(resumed), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    kept = ("step", "loss", "learning_rate", "validation_qwk")
    assert [[row[name] for name in kept] for row in history.rows] == [
        [row[name] for name in kept] for row in whole.rows
    ]
    assert (history.best_qwk, history.chosen_step) == (whole.best_qwk, whole.chosen_step)
    # What the kills left half written was overwritten, or at least is not one more file a kill.
    (folder,) = tmp_path.iterdir()
    assert len(list(folder.iterdir())) <= 4


def test_half_a_checkpoint_is_never_read(tmp_path):
    """What the kill above leaves under the temporary name, put in the checkpoint's place, is
    told from a whole one.
    """
    from dr_lib.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint

    path = tmp_path / "checkpoint.npz"
    write_checkpoint(path, Checkpoint([np.arange(1000.0)], {"step": 4}))
    size = path.stat().st_size
    for length in random.Random(3).sample(range(1, size), 20):
        torn = tmp_path / "torn.npz"
        torn.write_bytes(path.read_bytes()[:length])
        with pytest.raises(ValueError, match="not a training checkpoint"):
            read_checkpoint(torn)
    assert read_checkpoint(path).state == {"step": 4}

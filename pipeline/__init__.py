"""What a training step is made of, and what can be done with a trained model.

model = pipeline.load("runs/ffhq256")
mu, logvar = model.encode(x)          # x (B, 3, R, R) in [-1, 1]
images = model.sample(16, psi=0.8)
"""

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # otherwise DeepSpeed guesses, and warns


def load(path, **how):
    """The model in a checkpoint, or in the newest one of a run: see `pipeline.model.load`."""
    from pipeline import model

    return model.load(path, **how)

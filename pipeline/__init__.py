"""What a training step is made of, and what can be done with a trained model.

model = pipeline.load("runs/ffhq256")
mu, logvar = model.encode(x)          # x (B, 3, R, R) in [-1, 1]
images = model.sample(16, psi=0.8)
"""

import os

import torch

# Otherwise DeepSpeed guesses, and warns. Never what was inherited: a job has the environment of
# the machine that submitted it, which may have no GPU.
os.environ["DS_ACCELERATOR"] = "cuda" if torch.cuda.is_available() else "cpu"
torch.backends.cudnn.allow_tf32 = False  # or fp32 would be convolved with mantissas of 10 bits


def load(path, **how):
    """The model in a checkpoint, or in the newest one of a run: see `pipeline.model.load`."""
    from pipeline import model

    return model.load(path, **how)

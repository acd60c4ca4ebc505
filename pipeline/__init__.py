"""Networks, objectives and engines of a training, and the use of a trained model.

model = pipeline.load("runs/ffhq256")
mu, logvar = model.encode(x)          # x (B, 3, R, R) in [-1, 1]
images = model.sample(16, psi=0.8)
"""

import os

import torch

# Without this, DeepSpeed guesses and warns. An inherited value is overwritten: a job inherits the
# environment of the machine that submitted it, which may have no GPU.
os.environ["DS_ACCELERATOR"] = "cuda" if torch.cuda.is_available() else "cpu"
torch.backends.cudnn.allow_tf32 = False  # TF32 would convolve fp32 with mantissas of 10 bits


def load(path, **how):
    """Loads the model of a checkpoint, or of a run's newest one: see `pipeline.model.load`."""
    from pipeline import model

    return model.load(path, **how)

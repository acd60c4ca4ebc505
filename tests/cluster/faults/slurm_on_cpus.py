"""launch/slurm.py for the tests' nodes, whose GPUs are not real: a process for each, on a CPU."""

from launch import slurm
from launch.job import Training


def main() -> None:
    slurm.Training = lambda config, folder, gpus: Training(config, folder, gpus=0)
    slurm.main()

"""Residual networks with batch norm: CIFAR-10 and its kin (spec image-systems, A, B, E, F)."""

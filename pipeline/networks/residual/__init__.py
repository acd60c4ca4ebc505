"""Residual networks with batch norm, as for CIFAR-10 (spec image-systems, A, B, E, F)."""

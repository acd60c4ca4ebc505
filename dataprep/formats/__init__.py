"""The files of a prepared dataset: WebDataset tars and FFCV betons, written and read back."""

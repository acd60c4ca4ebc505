"""Image translation: a class and a content code of each image, without labels (spec, C)."""

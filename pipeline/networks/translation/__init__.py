"""Image translation: a class code and a content code per image, without labels (spec, C)."""

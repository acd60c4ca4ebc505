"""Drawn data sets, whose factors are known: faces (portraits) and toy cars."""

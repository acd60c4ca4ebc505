"""The paper's study of two-dimensional distributions (section 6.1 and 6.2): Table 2, Figures 2, 3.

    python -m pipeline.studies.two_d table2

trains what the images are trained with (`pipeline.objective`) on four distributions of which all
is known. `cells` is the unit of work, `training` the loop, `networks` the ensemble.
"""

"""What goes wrong with data in a way that its user can mend."""


class DatasetError(Exception):
    """A source or a dataset that cannot be used; the message names it and the way out."""

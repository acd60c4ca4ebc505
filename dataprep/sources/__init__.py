"""Sources of images. One module for each kind, with the same two functions:

entries(path, options)   lists all files, as `sources.entry` describes them
Archive(path)            reads the bytes of one image: `read(entry)`, then `close()`
"""

"""Where images come from. One module per kind of source, each with the same two things:

entries(path, labels)   goes through the names of the images without holding them
Archive(path)           reads the bytes of one image: `read(entry)`, then `close()`
"""

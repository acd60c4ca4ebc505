"""Where images come from. One module per kind of source, each with the same two things:

entries(path, asked)    goes through the names of all files without holding them
Archive(path)           reads the bytes of one image: `read(entry)`, then `close()`
"""

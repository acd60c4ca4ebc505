"""One image: from the bytes of a file to pixels, to every resolution, to bytes again."""

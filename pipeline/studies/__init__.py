"""Studies of the objectives apart from images."""

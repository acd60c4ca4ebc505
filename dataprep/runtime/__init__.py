"""What any long job needs: worker processes, a lock, atomic files, external sorting, progress."""

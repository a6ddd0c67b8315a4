"""Other processes: the further ranks of a run, and the runs of a sweep side by side."""

"""Starting other processes: the other ranks of a run, and several runs of a sweep at once."""

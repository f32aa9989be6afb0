"""Files that are read without unpickling: agents' archives, the checkpoints of runs, and what is checked in them."""

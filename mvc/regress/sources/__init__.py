"""What is measured: git revisions as folders, and the folders and locks of a run of the gate."""

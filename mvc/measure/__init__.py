"""How long a call takes, by which clock, on which machine, and where the time goes."""

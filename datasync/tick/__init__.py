"""Stage 1: each tick finds the runs that are due and puts their jobs on the queue."""

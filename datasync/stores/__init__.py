"""Where things are kept: one class per container or queue. Query text, ETags and base64 exist nowhere else."""

"""One class per container or queue. Query text, ETags, partition keys and base64 exist nowhere else."""

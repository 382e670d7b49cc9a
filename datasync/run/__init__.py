"""Stage 2: each message runs one flow for one tenant. receive → admit → call → settle."""

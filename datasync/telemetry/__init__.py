"""Events: the facts that operators read, search and alert on."""

"""A local Azure Functions host, for people without Core Tools: `python -m localdev.host --app DIR`.

It runs an unchanged Python v2 `function_app.py` on Microsoft's own worker library (azure-functions-runtime) and gives
it the queue and timer triggers as the real host does. Where it differs, the module concerned says so:

* `worker`   one process: a function that never returns, or that ends the process, is not restarted around;
* `queues`   only the queue trigger; no input or output bindings;
* `timers`   the schedule's status is kept in memory, not in a blob, so a restart forgets it;
* `admin`    the three admin calls that help while developing, no keys;
* `app`      a function the host cannot start stops the whole start, rather than being left out with an error.
"""

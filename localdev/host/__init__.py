"""A local Azure Functions host, for machines without Core Tools: `python -m localdev.host --app DIR`.

It runs an unchanged Python v2 `function_app.py` on Microsoft's worker library (azure-functions-runtime), with the
queue, timer and HTTP triggers of the real host. It differs from the real host in these points:

* One process. A function that never returns, or that ends the process, does not lead to a new worker (`worker`).
* `LOCALDEV_MESSAGE_HIDING` changes the ten minutes for which a message is hidden during its run (`config`).
* Only queue, timer and HTTP triggers, without input or output bindings (`app`).
* Function keys are not checked, routes have no constraints, and some options of HTTP are missing (`http`, `routes`).
* An unexpected storage error while a message is deleted, released, kept hidden or moved to the poison queue shuts the
  real host down. The local host logs the error, and the message is delivered again later (`messages`, `queues`).
  Sources: Azure/azure-sdk-for-net, QueueListener.cs (ProcessMessageAsync) and QueueProcessor.cs;
  Azure/azure-functions-host, WebScriptHostExceptionHandler.cs.
* The status of a timer is kept in memory, not in a blob: a restart forgets it (`timers`).
* Log lines that the real host drops are shown, with a mark (`console`).
* Three admin calls, without keys (`admin`).
* A function that the host cannot start stops the whole start. The real host leaves it out and reports an error (`app`).
"""

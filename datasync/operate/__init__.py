"""The questions of an operator with their answers, and the actions. Knows neither click nor HTTP."""

"""The questions of an operator, and their answers. Knows neither click nor HTTP."""

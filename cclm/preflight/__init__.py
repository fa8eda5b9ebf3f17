"""Checks of a machine and of what a run needs, before its processes start.

`cclm launch` makes them. Each check is a function that returns what is worth telling, and raises what is wrong:
UserError for what the user has to mend, NodeError for a machine that another one may replace, StoreUnavailable for a
store that does not answer.
"""

"""The shapes, in the order of the data: Tenant → Job → FlowState, RunRecord. Pure: no I/O, no clock."""
